"""A bundle of a registered version, exported from a real MLflow store."""

import json

import pytest

from tests.serving.bundles import make_bundle
from tests.stores import new_store
from tfpipe.core.errors import RegistryError
from tfpipe.registry import Registry
from tfpipe.store import connect
from tfpipe.targets.export import CARD, export


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose only version has a bundle that was made under another name."""
    folder = tmp_path_factory.mktemp("store")
    uri = new_store(folder)
    client = connect(uri)
    run = client.create_run(
        client.create_experiment("runs", artifact_location=(folder / "mlruns").as_uri())
    ).info.run_id
    trained = folder / "trained"
    (trained / "calibration").mkdir(parents=True)
    for name in ("config.yaml", "model.keras", "model.json", "validation.json", "calibration/0000.jpg"):
        (trained / name).write_text(name)
    registry = Registry(uri)
    metadata = {"created": "2026-01-01T00:00:00+00:00", "metrics": {}}
    version = registry.register("shades", run_id=run, folder=trained, metadata=metadata)
    registry.attach_bundle(version, make_bundle(folder / "bundle", name="colours", version="3"))
    return uri


@pytest.mark.parametrize("uri", ["models:/shades/1", "models:/shades@champion", "models:/shades"])
def test_a_registered_version_is_exported_under_its_registered_name(store, tmp_path, uri):
    result = export(uri, "triton", tmp_path / "out", tracking_uri=store, cache_dir=tmp_path / "cache")

    card = json.loads((result.folder / CARD).read_text())
    assert (card["model_name"], card["model_version"]) == ("shades", "1")
    assert (result.folder / "shades" / "1" / "model.py").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [card["bundle"]]


def test_a_version_that_is_not_there_is_said(store, tmp_path):
    with pytest.raises(RegistryError, match="received '2'"):
        export("models:/shades/2", "onnx", tmp_path / "out", tracking_uri=store, cache_dir=tmp_path / "cache")

    assert list(tmp_path.iterdir()) == []
