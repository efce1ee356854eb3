"""Where bundles are made: one conversion at a time for each place."""

import pytest

from tfpipe.convert.staging import held
from tfpipe.core.errors import ConfigError


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def test_a_place_is_held_by_one_conversion_and_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with (
            held(tmp_path / "bundle"),
            pytest.raises(
                ConfigError, match=r"--output: another conversion writes '.*bundle'\. Wait for it, or choose"
            ),
            held(tmp_path / "bundle"),
        ):
            pass

    assert names_in(tmp_path) == []


def test_a_conversion_that_fails_frees_its_place(tmp_path):
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "bundle"):
        raise KeyboardInterrupt

    with held(tmp_path / "bundle"), held(tmp_path / "other"):
        pass
    assert names_in(tmp_path) == []


def test_what_a_killed_conversion_left_is_no_obstacle(tmp_path):
    (tmp_path / ".bundle.lock").touch()

    with held(tmp_path / "bundle"):
        pass

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("place", [".", "..", "new/..", "/"])
def test_a_place_without_a_name_of_its_own_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)

    with (
        pytest.raises(ConfigError, match=r"--output: expected a folder with a name of its own, received '.*'\."),
        held(tmp_path.__class__(place)),
    ):
        pass
