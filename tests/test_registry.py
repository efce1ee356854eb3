"""The registry on a SQLite store; tests/test_tracking.py has a server that goes away."""

import json
import math
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.full_disk import files_of_at_most
from tests.stores import new_store
from tfpipe.core.bundle import Manifest, seal
from tfpipe.core.criteria import missed_criteria
from tfpipe.core.errors import BundleError, RegistryError, TrackingError
from tfpipe.registry import MODEL_FILES, Registry, register_if_good
from tfpipe.store import connect, store_uri

METADATA = {"created": "2025-01-01T00:00:00+00:00", "metrics": {"val_accuracy": 0.9}}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    uri = new_store(folder)
    connect(uri).create_experiment("runs", artifact_location=(folder / "mlruns").as_uri())
    return uri


@pytest.fixture
def registry(uri):
    return Registry(uri, retry_s=1.0)


@pytest.fixture(scope="module")
def new_run(uri):
    client = connect(uri)
    experiment = client.get_experiment_by_name("runs").experiment_id
    return lambda: client.create_run(experiment).info.run_id


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for name in ("config.yaml", "model.keras", "model.json", "validation.json", "result.json"):
        (folder / name).write_text(name)
    (folder / "calibration").mkdir()
    (folder / "calibration" / "0000.jpg").write_bytes(b"jpeg")
    return folder


@pytest.fixture
def register(registry, new_run, trained):
    return lambda name: registry.register(name, run_id=new_run(), folder=trained, metadata=METADATA)


def make_bundle(folder, weights=b"weights"):
    (folder / "golden").mkdir(parents=True)
    (folder / "golden" / "0.jpg").write_bytes(b"jpeg")
    (folder / "model.fp32.onnx").write_bytes(weights)
    seal(folder, Manifest("digits", "1", "image_classification", ("a",), (), (), (), {}, "fp32", {}, {}, "now"))
    return folder


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def stored(uri, run_id, file):
    return Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / run_id / "artifacts" / file


# Feature: deep-learning-pipeline, Property 8: Registration
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    metrics=st.dictionaries(st.sampled_from(["val_accuracy", "val_loss", "test_f1"]), st.floats()),
    min_metrics=st.dictionaries(st.sampled_from(["val_accuracy", "val_loss", "absent"]), st.floats(-2, 2), max_size=2),
    samples=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)
def test_a_run_is_registered_with_its_metadata_exactly_if_it_meets_its_criteria(
    uri, new_run, trained, metrics, min_metrics, samples
):
    registry, run_id = Registry(uri), new_run()
    before = {found.version for found in connect(uri).search_model_versions('name="criteria"')}

    version = register_if_good(
        registry,
        "criteria",
        run_id=run_id,
        folder=trained,
        metrics=metrics,
        min_metrics=min_metrics,
        metadata={"created": "2025-01-01", "samples": samples},
    )

    after = {found.version: found for found in connect(uri).search_model_versions('name="criteria"')}
    if any(not metrics.get(name, math.nan) >= least for name, least in min_metrics.items()):
        assert version is None
        assert after.keys() == before
    else:
        assert set(after) - before == {int(version.version)}
        assert registry.resolve(f"models:/criteria/{version.version}").run_id == run_id
        tags = after[int(version.version)].tags
        assert tags["tfpipe.created"] == "2025-01-01"
        assert tags["tfpipe.config"] == (trained / "config.yaml").read_text()
        assert json.loads(tags["tfpipe.samples"]) == samples
        assert repr(json.loads(tags["tfpipe.metrics"])) == repr(dict(sorted(metrics.items())))


def test_a_missed_criterion_is_told_with_its_numbers():
    missed = missed_criteria({"val_accuracy": 0.85, "val_f1": math.nan}, {"val_accuracy": 0.9, "val_f1": 0, "auc": 1})

    assert missed == [
        "val_accuracy: expected at least 0.9, received 0.85.",
        "val_f1: expected at least 0, received nan.",
        "auc: expected at least 1, received none.",
    ]


@pytest.mark.parametrize(("name", "least"), [(None, 0.0), ("missed", 0.99)])
def test_a_model_without_a_name_or_below_its_criteria_is_kept_with_its_run(
    uri, registry, new_run, trained, name, least
):
    run_id = new_run()

    version = register_if_good(
        registry,
        name,
        run_id=run_id,
        folder=trained,
        metrics={"val_accuracy": 0.5},
        min_metrics={"val_accuracy": least},
        metadata=METADATA,
    )

    assert version is None
    assert stored(uri, run_id, "model/model.keras").read_text() == "model.keras"
    assert "missed" not in registry.names()


def test_reading_never_makes_a_store(tmp_path):
    with pytest.raises(RegistryError, match="found none; train first, or name another store with MLFLOW_TRACKING_URI"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db").names()

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("data", "received"), [(b"text " * 300, "another file"), (b"", "without its tables")])
def test_a_file_that_is_no_store_is_refused(tmp_path, data, received):
    path = tmp_path / "mlflow.db"
    path.write_bytes(data)

    with pytest.raises(RegistryError, match=received):
        Registry(f"sqlite:///{path}").names()

    assert path.read_bytes() == data


@pytest.mark.parametrize("uri", ["htp://host", "./mlruns", "http://", "http://[", "mlflow.db"])
def test_what_is_no_address_is_refused(uri):
    with pytest.raises(RegistryError, match="expected sqlite:///FILE"):
        Registry(uri).names()


def test_the_store_is_the_given_one_then_the_environments_then_the_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    default = store_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")

    assert default == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri(None) == "http://host:5000"
    assert store_uri("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize("uri", ["digits", "models:digits/1", "models:/digits/one", "models:/digits/1/2", "models:/a@"])
def test_a_malformed_model_uri_is_refused(registry, uri):
    with pytest.raises(RegistryError, match="expected models:/NAME/VERSION"):
        registry.resolve(uri)


def test_what_is_unknown_is_refused_with_what_there_is(registry, register):
    register("flowers")

    with pytest.raises(RegistryError, match=r"registered models \(.*flowers.*\), received 'flower'. Did you mean"):
        registry.resolve("models:/flower")
    with pytest.raises(RegistryError, match=r"versions of 'flowers' \(1\), received '7'"):
        registry.resolve("models:/flowers/7")
    with pytest.raises(RegistryError, match="received 'best', but there are no aliases of 'flowers'"):
        registry.resolve("models:/flowers@best")


def test_where_there_is_no_champion_the_command_that_makes_one_is_said(registry, register):
    register("budding")

    expected = r"found none\. The first version that is converted becomes it: .*convert --model models:/budding$"
    with pytest.raises(RegistryError, match=expected):
        registry.resolve("models:/budding@champion")


def test_the_newest_version_is_the_one_of_the_highest_number(uri, registry):
    client = connect(uri)
    client.create_registered_model("many")
    for _ in range(11):
        client.create_model_version("many", "file:///nowhere")

    assert registry.resolve("models:/many").version == "11"
    assert registry.resolve("models:/many/latest").uri == "models:/many/11"
    assert registry.resolve("models:/many/2").version == "2"


def test_the_only_registered_name_is_the_default(tmp_path, registry, register):
    register("first-name")
    register("second-name")
    empty = new_store(tmp_path)

    assert registry.default_name("given") == "given"
    with pytest.raises(RegistryError, match=r"first-name, .*second-name"):
        registry.default_name(None)
    with pytest.raises(RegistryError, match="none is registered; train first"):
        Registry(empty).default_name(None)
    connect(empty).create_registered_model("only")
    assert Registry(empty).default_name(None) == "only"


@pytest.mark.parametrize("name", ["", "two words", "a/b", "a:b", "a@b", ".hidden", "x" * 129])
def test_a_name_that_would_not_fit_in_a_uri_is_refused(registry, trained, name):
    with pytest.raises(RegistryError, match="expected 1 to 128 letters"):
        registry.register(name, run_id="any", folder=trained, metadata=METADATA)


def test_nothing_is_registered_where_something_is_missing(registry, new_run, trained, tmp_path):
    with pytest.raises(RegistryError, match="expected metadata with metrics, received none"):
        registry.register("partial", run_id=new_run(), folder=trained, metadata={"created": "now"})
    with pytest.raises(RegistryError, match=r"expected a trained-model folder, found no config\.yaml"):
        registry.register("partial", run_id=new_run(), folder=tmp_path, metadata=METADATA)
    with pytest.raises(RegistryError, match="unknown-run"):
        registry.register("partial", run_id="unknown-run", folder=trained, metadata=METADATA)

    assert "partial" not in registry.names()


def test_a_run_that_is_registered_keeps_its_version(registry, new_run, trained):
    run_id = new_run()

    versions = [registry.register("resumed", run_id=run_id, folder=trained, metadata=METADATA) for _ in range(2)]

    assert versions[0] == versions[1]
    assert registry.resolve("models:/resumed").version == "1"


def test_metadata_too_long_for_a_tag_lie_in_the_run(uri, registry, new_run, trained):
    config, run_id = {"key": "x" * 6000}, new_run()

    version = registry.register("long", run_id=run_id, folder=trained, metadata={**METADATA, "config": config})

    assert version.tags["tfpipe.config"] == f"runs:/{run_id}/version_metadata/config"
    assert json.loads(stored(uri, run_id, "version_metadata/config").read_text()) == config


def test_a_folder_is_known_as_the_newest_version_with_its_model(registry, new_run, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "other")
    (folder / "model.keras").write_text("other weights")
    with pytest.raises(RegistryError, match=f"expected a version with the model of {folder}, found none"):
        registry.version_of(folder)

    registered = [registry.register(name, run_id=new_run(), folder=folder, metadata=METADATA) for name in ("b", "a")]
    registry.register("b", run_id=new_run(), folder=trained, metadata=METADATA)

    assert registry.version_of(folder).uri == registered[-1].uri


def test_a_downloaded_model_is_the_registered_one(registry, register, trained, tmp_path):
    version = register("download")

    folder = registry.download_model(version, tmp_path / "deep" / "model")

    registered = {file: data for file, data in content(trained).items() if file.split("/")[0] in MODEL_FILES}
    assert content(folder) == registered
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_that_was_changed_in_the_store_is_refused(uri, registry, new_run, trained, tmp_path):
    run_id = new_run()
    version = registry.register("changed", run_id=run_id, folder=trained, metadata=METADATA)
    stored(uri, run_id, "model/model.keras").write_text("changed")

    with pytest.raises(RegistryError, match="Its artefacts were changed after it was registered"):
        registry.download_model(version, tmp_path / "model")

    assert not list(tmp_path.iterdir())


def test_only_the_first_bundle_of_a_name_becomes_champion(uri, registry, register, tmp_path):
    first, second, third = (register("champions") for _ in range(3))

    bundles = [make_bundle(tmp_path / name, name.encode()) for name in "abc"]

    is_champion = [
        registry.attach_bundle(version, bundle)
        for version, bundle in [(first, bundles[0]), (first, bundles[0]), (second, bundles[1])]
    ]

    assert is_champion == [True, True, False]
    assert registry.resolve("models:/champions@champion").version == first.version
    # Someone who takes the champion away wants none to come by itself.
    connect(uri).delete_registered_model_alias("champions", "champion")
    assert not registry.attach_bundle(third, bundles[2])


def test_a_bundle_is_downloaded_once_and_then_comes_from_the_cache(uri, registry, register, tmp_path):
    version = register("cached")
    bundle = make_bundle(tmp_path / "bundle", b"cached")
    registry.attach_bundle(version, bundle)
    version = registry.resolve("models:/cached@champion")

    folder = registry.download_bundle(version, tmp_path / "cache")
    stored(uri, version.run_id, f"bundle/{version.bundle_sha256[:12]}/model.fp32.onnx").write_bytes(b"damaged")
    again = registry.download_bundle(version, tmp_path / "cache")

    assert folder == again == tmp_path / "cache" / version.bundle_sha256
    assert content(folder) == content(bundle)
    with pytest.raises(RegistryError, match=r"received a damaged one\. Convert it again: python -m tfpipe\.convert"):
        registry.download_bundle(version, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_a_disk_without_room_for_a_bundle_is_named(registry, register, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", b"w" * 100_000)
    registry.attach_bundle(register("roomy"), bundle)
    version = registry.resolve("models:/roomy")

    with (
        files_of_at_most(30_000),
        pytest.raises(
            RegistryError, match=r"cache: expected room for the 0\.1 MB of models:/roomy/1; File too large\."
        ),
    ):
        registry.download_bundle(version, tmp_path / "cache")

    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_copy_in_the_cache_is_replaced(registry, register, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", b"replaced")
    registry.attach_bundle(register("replaced"), bundle)
    version = registry.resolve("models:/replaced")
    folder = registry.download_bundle(version, tmp_path / "cache")
    (folder / "model.fp32.onnx").write_bytes(b"damaged")

    registry.download_bundle(version, tmp_path / "cache")

    assert content(folder) == content(bundle)


def test_an_upload_without_its_tag_is_no_bundle(uri, registry, register, tmp_path):
    version = register("uncommitted")
    bundle = make_bundle(tmp_path / "bundle")
    connect(uri).log_artifacts(version.run_id, str(bundle), "bundle/0123456789ab")

    with pytest.raises(RegistryError, match=r"found none\. Convert it: python -m tfpipe\.convert --model models:/u"):
        registry.download_bundle(registry.resolve("models:/uncommitted"), tmp_path / "cache")


def test_a_bundle_with_one_byte_changed_is_not_attached(registry, register, tmp_path):
    version = register("unattached")
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.fp32.onnx").write_bytes(b"weightz")

    with pytest.raises(BundleError, match="changed after the bundle was made"):
        registry.attach_bundle(version, bundle)

    assert registry.resolve("models:/unattached").bundle_sha256 is None


def test_a_version_of_another_tool_is_refused_by_name(uri, registry, tmp_path):
    client = connect(uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "file:///nowhere")
    version = registry.resolve("models:/foreign")

    with pytest.raises(RegistryError, match="expected a version that tfpipe registered"):
        registry.download_model(version, tmp_path / "model")
    with pytest.raises(RegistryError, match="found one without a run"):
        registry.attach_bundle(version, make_bundle(tmp_path / "bundle"))


_REGISTER = """
import sys
from pathlib import Path
from tfpipe.registry import Registry
metadata = {"created": "now", "metrics": {}, "config": {}}
print(Registry(sys.argv[1]).register("race", run_id=sys.argv[2], folder=Path(sys.argv[3]), metadata=metadata).version)
"""


def test_processes_that_register_at_once_get_different_versions(uri, new_run, trained):
    command = [sys.executable, "-c", _REGISTER, uri]
    processes = [
        subprocess.Popen([*command, new_run(), str(trained)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    versions = {process.communicate(timeout=120)[0].strip() for process in processes}

    assert versions == {"1", "2"}


def test_a_server_that_refuses_connections_is_given_up_in_time():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        started_s = time.monotonic()

        with pytest.raises(TrackingError, match=f"{uri}: expected an MLflow store that answers within 0.5 s.*refused"):
            Registry(uri, retry_s=0.5).names()

    assert time.monotonic() - started_s < 10


def test_a_server_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started_s = time.monotonic()

        with pytest.raises(TrackingError, match="timed out"):
            Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", retry_s=0.1).names()

    assert time.monotonic() - started_s < 15


def test_imports_where_the_training_stack_is_missing():
    vendors = ("tensorflow", "keras", "horovod", "omegaconf", "sklearn", "matplotlib", "onnx")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({vendors})); import tfpipe.registry"

    subprocess.run([sys.executable, "-c", blocked], check=True)
