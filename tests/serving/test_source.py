from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.source import fetch_bundle, fetch_bundles
from tests.serving.bundles import make_bundle
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import BundleError, ConfigError, RegistryError


@dataclass(frozen=True)
class FakeVersion:
    name: str = "registered"
    version: str = "7"
    aliases: tuple[str, ...] = ("champion",)


@dataclass
class FakeRegistry:
    """Knows one version, whose bundle is a folder."""

    folder: Path
    asked: list = field(default_factory=list)

    def default_name(self, name):
        self.asked.append(("default_name", name))
        return name or "registered"

    def resolve(self, uri):
        self.asked.append(("resolve", uri))
        if uri not in ("models:/registered@champion", "models:/registered/7"):
            raise RegistryError(f"{uri}: no such version.")
        return FakeVersion()

    def download_bundle(self, version, cache_dir):
        self.asked.append(("download_bundle", version.version, cache_dir))
        return self.folder


def no_registry():
    raise AssertionError("the registry was opened for a folder")


def test_a_folder_is_served_without_a_registry(bundle, tmp_path):
    served = fetch_bundle(str(bundle), registered_model=None, cache_dir=tmp_path, open_registry=no_registry)

    assert (served.name, served.version, served.aliases) == ("colours", "3", ())
    assert served.bundle.sha256 == open_bundle(bundle).sha256


def test_a_registered_version_is_served_under_its_registered_name(bundle, tmp_path):
    registry = FakeRegistry(bundle)

    served = fetch_bundle(
        "models:/registered/7", registered_model=None, cache_dir=tmp_path, open_registry=lambda: registry
    )

    assert (served.name, served.version, served.aliases) == ("registered", "7", ("champion",))
    assert registry.asked == [("resolve", "models:/registered/7"), ("download_bundle", "7", tmp_path)]


@pytest.mark.parametrize("name", [None, "registered"])
def test_by_default_the_champion_of_the_default_name_is_served(bundle, tmp_path, name):
    registry = FakeRegistry(bundle)

    fetch_bundle(None, registered_model=name, cache_dir=tmp_path, open_registry=lambda: registry)

    assert registry.asked[:2] == [("default_name", name), ("resolve", "models:/registered@champion")]


def test_a_home_folder_is_expanded(bundle):
    registry = FakeRegistry(bundle)

    fetch_bundle(None, registered_model=None, cache_dir=Path("~/cache"), open_registry=lambda: registry)

    assert registry.asked[-1][2] == Path.home() / "cache"


def test_a_folder_without_a_bundle_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match=r"found no bundle. Make one with `python -m tfpipe.convert"):
        fetch_bundle(str(tmp_path), registered_model=None, cache_dir=tmp_path, open_registry=no_registry)


def test_what_the_registry_refuses_is_said(bundle, tmp_path):
    with pytest.raises(RegistryError, match="no such version"):
        fetch_bundle(
            "models:/registered/8",
            registered_model=None,
            cache_dir=tmp_path,
            open_registry=lambda: FakeRegistry(bundle),
        )


def test_a_name_that_no_path_of_a_request_can_hold_is_refused_with_what_to_do(tmp_path):
    folder = make_bundle(tmp_path / "b", name="teams/colours")

    with pytest.raises(ConfigError, match=rf"received 'teams/colours'.*: teams-colours={folder}$"):
        next(fetch_bundles(str(folder), registered_model=None, cache_dir=tmp_path))
    (served,) = fetch_bundles(f"teams-colours={folder}", registered_model=None, cache_dir=tmp_path)
    assert served.name == "teams-colours"
