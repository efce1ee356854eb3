"""A registered model, served from a real MLflow store."""

from pathlib import Path

import pytest

from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import process, wait_for
from tests.stores import new_store
from tfpipe.registry import Registry
from tfpipe.store import connect
from tfpipe.tune import main as tune


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """Two versions of a name: the first has a bundle and is champion, the second has none."""
    folder = tmp_path_factory.mktemp("store")
    uri = new_store(folder)
    client = connect(uri)
    experiment = client.create_experiment("runs", artifact_location=(folder / "mlruns").as_uri())
    trained = folder / "trained"
    (trained / "calibration").mkdir(parents=True)
    for name in ("config.yaml", "model.keras", "model.json", "validation.json", "calibration/0000.jpg"):
        (trained / name).write_text(name)
    registry = Registry(uri)
    metadata = {"created": "2026-01-01T00:00:00+00:00", "metrics": {}}
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    first, _ = [registry.register("colours", run_id=run, folder=trained, metadata=metadata) for run in runs]
    registry.attach_bundle(first, make_bundle(folder / "bundle", version=first.version))
    return uri


@pytest.fixture
def cache(store, tmp_path, monkeypatch) -> Path:
    """The store's address is set; gives an empty cache."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return tmp_path / "cache"


def test_by_default_the_champion_of_the_only_name_is_served(cache):
    with process(cache_dir=str(cache)) as started:
        wait_for(started.is_ready)
        answer = started.post("/predict?alias=champion", content=RED).json()
        other = started.post("/predict?model_version=2", content=RED)

    assert (answer["model_name"], answer["model_version"]) == ("colours", "1")
    assert other.status_code == 404
    # Beside what the registry said, for when it is away.
    assert sorted(folder.name[:12] for folder in cache.iterdir()) == sorted([answer["bundle"], "resolved"])
    assert all(line.startswith("{") for line in started.lines)


def test_a_version_without_a_bundle_says_how_to_convert_it(cache):
    with process("--model", "models:/colours/2", cache_dir=str(cache)) as started:
        code = started.wait()

    assert code == 2
    assert started.lines[-1] == (
        "serving: models:/colours/2: expected a version with a bundle, found none. "
        "Convert it: python -m tfpipe.convert --model models:/colours/2\n"
    )


def test_an_unknown_name_is_one_sentence(cache):
    with process("--registered-model", "colors", cache_dir=str(cache)) as started:
        code = started.wait()

    assert code == 2
    assert started.lines[-1].startswith("serving: models:/colors@champion: expected one of the registered models")


def test_a_registered_version_is_tuned_for_the_service_that_will_take_it(cache, capsys):
    assert tune(["models:/colours@champion", "--cache-dir", str(cache), "--max-minutes", "0.05"]) == 0
    assert "chosen" in capsys.readouterr().out

    with process(cache_dir=str(cache), model="models:/colours@champion") as started:
        wait_for(started.is_ready)
        (model,) = started.get("/health").json()["models"]

    assert model["why"] == "tuned on this machine"


def test_a_version_that_cannot_be_tuned_is_one_sentence(cache, capsys):
    assert tune(["models:/colours/2", "--cache-dir", str(cache)]) == 2
    assert "expected a version with a bundle, found none" in capsys.readouterr().err
