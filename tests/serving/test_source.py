import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.source import check_models, fetch_bundle, fetch_bundles, names_several
from tests.serving.bundles import make_bundle
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import BundleError, ConfigError, RegistryError, TrackingError


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
    uri: str = "http://registry:5000"
    away: bool = False

    def default_name(self, name):
        self.asked.append(("default_name", name))
        return name or "registered"

    def resolve(self, uri):
        self.asked.append(("resolve", uri))
        if self.away:
            raise TrackingError(f"{self.uri}: expected an MLflow store that answers.")
        if uri not in ("models:/registered@champion", "models:/registered/7"):
            raise RegistryError(f"{uri}: no such version.")
        return FakeVersion()

    def download_bundle(self, version, cache_dir):
        self.asked.append(("download_bundle", version.version, cache_dir))
        kept = cache_dir / open_bundle(self.folder).sha256
        if not kept.exists():
            shutil.copytree(self.folder, kept)
        return kept


def no_registry(wait_s):
    raise AssertionError("the registry was opened for a folder")


def test_a_folder_is_served_without_a_registry(bundle, tmp_path):
    served = fetch_bundle(str(bundle), registered_model=None, cache_dir=tmp_path, open_registry=no_registry)

    assert (served.name, served.version, served.aliases) == ("colours", "3", ())
    assert served.bundle.sha256 == open_bundle(bundle).sha256


def test_a_registered_version_is_served_under_its_registered_name(bundle, tmp_path):
    registry = FakeRegistry(bundle)

    served = fetch_bundle(
        "models:/registered/7", registered_model=None, cache_dir=tmp_path, open_registry=lambda _: registry
    )

    assert (served.name, served.version, served.aliases) == ("registered", "7", ("champion",))
    assert registry.asked == [("resolve", "models:/registered/7"), ("download_bundle", "7", tmp_path)]


@pytest.mark.parametrize("name", [None, "registered"])
def test_by_default_the_champion_of_the_default_name_is_served(bundle, tmp_path, name):
    registry = FakeRegistry(bundle)

    fetch_bundle(None, registered_model=name, cache_dir=tmp_path, open_registry=lambda _: registry)

    assert registry.asked[:2] == [("default_name", name), ("resolve", "models:/registered@champion")]


def test_a_home_folder_is_expanded(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    registry = FakeRegistry(bundle)

    fetch_bundle(None, registered_model=None, cache_dir=Path("~/cache"), open_registry=lambda _: registry)

    assert registry.asked[-1][2] == tmp_path / "cache"


def fetch(registry, cache_dir, model="models:/registered@champion"):
    return fetch_bundle(model, registered_model=None, cache_dir=cache_dir, open_registry=lambda _: registry)


@pytest.mark.parametrize("model", [None, "models:/registered@champion", "models:/registered/7"])
def test_while_the_registry_is_away_what_it_named_last_is_served(bundle, tmp_path, caplog, model):
    before = fetch(FakeRegistry(bundle), tmp_path, model)

    after = fetch(FakeRegistry(bundle, away=True), tmp_path, model)

    assert after == before
    assert [record.message for record in caplog.records] == ["served from the cache, as the registry is away"]


def test_nothing_is_served_for_a_registry_that_was_never_asked(bundle, tmp_path):
    fetch(FakeRegistry(bundle), tmp_path)

    with pytest.raises(TrackingError, match="http://other:5000: expected an MLflow store that answers"):
        fetch(FakeRegistry(bundle, uri="http://other:5000", away=True), tmp_path)
    with pytest.raises(TrackingError):
        fetch(FakeRegistry(bundle, away=True), tmp_path, "models:/registered/8")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1'])
def test_a_damaged_memory_is_none(bundle, tmp_path, content):
    fetch(FakeRegistry(bundle), tmp_path)
    (file,) = (tmp_path / "resolved").iterdir()
    file.write_text(content)

    with pytest.raises(TrackingError):
        fetch(FakeRegistry(bundle, away=True), tmp_path)


def test_a_bundle_of_the_cache_is_checked(bundle, tmp_path):
    served = fetch(FakeRegistry(bundle), tmp_path)
    (served.bundle.folder / "model.fp32.onnx").write_bytes(b"other")

    with pytest.raises(BundleError, match=r"expected sha256|expected .* bytes"):
        fetch(FakeRegistry(bundle, away=True), tmp_path)


def test_how_long_to_wait_is_passed_on(bundle, tmp_path):
    waits = []

    def open_registry(wait_s):
        waits.append(wait_s)
        return FakeRegistry(bundle)

    fetch_bundle(None, registered_model=None, cache_dir=tmp_path, registry_wait_s=7.0, open_registry=open_registry)

    assert waits == [7.0]


@pytest.mark.parametrize("models", [None, "models:/digits/1", "a=models:/digits/1,/bundles/b"])
def test_a_cache_that_cannot_be_written_is_refused_before_the_registry_is_asked(tmp_path, models):
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"TFPIPE_SERVING_CACHE_DIR: expected a folder that can be written, but '.*'"):
        check_models(models, tmp_path / "file" / "cache")


def test_a_folder_needs_no_cache(tmp_path):
    (tmp_path / "file").touch()

    check_models(str(make_bundle(tmp_path / "b")), tmp_path / "file" / "cache")


def test_many_models_are_no_path_that_is_too_long(tmp_path):
    models = ",".join(f"models:/model-{number}@champion" for number in range(300))

    check_models(models, tmp_path)

    assert names_several(models)


@pytest.mark.parametrize("folder", ["/x" * 3000, "x" * 300])
def test_a_folder_that_cannot_be_looked_into_is_a_sentence(tmp_path, folder):
    with pytest.raises(BundleError, match=r"x/bundle\.json: expected a bundle that can be read; File name too long\.$"):
        check_models(folder, tmp_path)


def test_a_file_of_a_bundle_that_cannot_be_read_is_a_sentence(tmp_path):
    folder = make_bundle(tmp_path / "b")
    file = folder / "model.int8.onnx"
    file.unlink()
    # Opens, and cannot be read, whoever asks.
    file.symlink_to("/proc/self/mem")

    with pytest.raises(BundleError, match=r"/b: expected a bundle that can be read; Input/output error\.$"):
        fetch_bundle(str(folder), registered_model=None, cache_dir=tmp_path)


def test_a_folder_that_does_not_exist_lists_those_that_do(tmp_path):
    for name in ("digits-1", "digits-2", "messages-1"):
        make_bundle(tmp_path / name)

    with pytest.raises(BundleError, match=rf"There are .*messages-1\. Did you mean {tmp_path}/digits-2\?"):
        fetch_bundle(str(tmp_path / "digts-2"), registered_model=None, cache_dir=tmp_path)
    with pytest.raises(BundleError, match=rf"found no bundle\. There are {tmp_path}/digits-1"):
        fetch_bundle(str(tmp_path), registered_model=None, cache_dir=tmp_path)


def test_a_folder_without_a_bundle_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match=r"found no bundle. Make one with `python -m tfpipe.convert"):
        # Beside `tmp_path` itself there may be other tests' bundles, which would be told.
        fetch_bundle(str(tmp_path / "none"), registered_model=None, cache_dir=tmp_path, open_registry=no_registry)


def test_what_the_registry_refuses_is_said(bundle, tmp_path):
    with pytest.raises(RegistryError, match="no such version"):
        fetch_bundle(
            "models:/registered/8",
            registered_model=None,
            cache_dir=tmp_path,
            open_registry=lambda _: FakeRegistry(bundle),
        )


def test_a_name_that_no_path_of_a_request_can_hold_is_refused_with_what_to_do(tmp_path):
    folder = make_bundle(tmp_path / "b", name="teams/colours")

    with pytest.raises(ConfigError, match=rf"received 'teams/colours'.*: teams-colours={folder}$"):
        next(fetch_bundles(str(folder), registered_model=None, cache_dir=tmp_path))
    (served,) = fetch_bundles(f"teams-colours={folder}", registered_model=None, cache_dir=tmp_path)
    assert served.name == "teams-colours"
