"""dvc.yaml and params.yaml: by DVC itself on the digits as image files; its store is an S3 server of this machine."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests import dvc_repository
from tests.commands import ROOT, run
from tests.dvc_repository import Repository, s3_server
from tfpipe.config import load_config
from tfpipe.core.bundle import open_bundle
from tfpipe.registry import Registry
from tfpipe.store import MlflowClient

STAGES = ["validate", "pack", "train", "convert", "verify"]
# Enough that INT8 is as right as FP32 on a few files.
SMALL = {
    "preprocessing": {"augmentation": {}},
    "model": {"name": "mlp"},
    "training": {"epochs": 6, "batch_size": 16},
    "tracking": {"min_metrics": {}},
    "conversion": {
        "max_metric_drop": 1.0,
        "max_class_drop": 1.0,
        "latency_runs": 1,
        "calibration_method": "minmax",
        "http_hop": False,
    },
}


def test_params_are_a_configuration_and_that_of_the_digits():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    digits = yaml.safe_load((ROOT / "configs" / "image_classification_digits.yaml").read_text())

    assert load_config(ROOT / "params.yaml").output_dir == params["output_dir"]
    del params["conversion"], params["training"]["seed"], digits["tracking"]["uri"]
    assert params | {"data": 0, "output_dir": 0} == digits | {"data": 0, "output_dir": 0}


def test_params_hold_nothing_that_an_experiment_would_replace_by_what_it_means():
    # `dvc exp run --set-param` resolves ${oc.env:...} and writes the value, which may hold a password.
    assert "${" not in (ROOT / "params.yaml").read_text()


def test_every_section_of_the_settings_is_what_a_stage_depends_on():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    named = {name for stage in stages.values() for name in stage.get("params", ())}
    assert list(stages) == STAGES
    assert {name.partition(".")[0] for name in named} == set(yaml.safe_load((ROOT / "params.yaml").read_text()))


@pytest.fixture(scope="module")
def new_repository(tmp_path_factory):
    if not dvc_repository.is_installed():
        pytest.skip("no DVC here; scripts/dvc_env.sh makes its environment")

    def make():
        repository = Repository(tmp_path_factory.mktemp("dvc") / "repository")
        run([sys.executable, str(ROOT / "examples" / "digits_as_files.py"), "data/digits", "30"], repository.folder)
        return repository

    return make


@pytest.fixture(scope="module")
def repository(new_repository):
    """After `dvc add` and `dvc repro`."""
    repository = new_repository()
    change(repository, SMALL)
    repository("add", "--quiet", "data/digits")
    assert ran(repository("repro")) == STAGES
    return repository


def change(repository, sections):
    """Other values of settings."""
    path = repository.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        params[name] |= values
    path.write_text(yaml.safe_dump(params))


def ran(output):
    """The stages that DVC says it ran."""
    return re.findall(r"^Running stage '(\w+)'", output, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.timeout(
    1200
)  # five commands one after the other: a minute and a half, on a machine that does nothing else
class TestRepro:
    def test_a_second_time_nothing_runs(self, repository):
        assert "Data and pipelines are up to date." in repository("repro")

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"conversion": {"golden_samples": 4}}, ["convert"]),
            ({"training": {"learning_rate": 0.01}}, ["train"]),
            ({"data": {"validation_fraction": 0.3}}, ["validate", "pack", "train"]),
        ],
        ids=["conversion", "training", "data"],
    )
    def test_another_setting_runs_the_stages_that_it_is_for(self, repository, changed, expected):
        params = repository.folder / "params.yaml"
        before = params.read_text()
        change(repository, changed)

        # Without running them DVC cannot know what stages after these will find.
        told = ran(repository("repro", "--dry"))
        params.write_text(before)

        assert told == expected

    def test_training_runs_again_over_what_an_earlier_run_left_and_conversion_after_it(self, repository):
        kept = {name: (repository.folder / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
        before = repository.outputs("train")
        change(repository, {"training": {"epochs": 1, "warmup_epochs": 0}})

        told = ran(repository("repro", "train"))
        after, told_next = repository.outputs("train"), ran(repository("repro", "--dry"))
        for name, content in kept.items():
            (repository.folder / name).write_bytes(content)
        repository("checkout", "--force")

        assert told == ["train"]
        assert after != before
        assert told_next == ["convert"]
        assert "Data and pipelines are up to date." in repository("repro")

    def test_the_run_in_mlflow_names_the_data_by_their_hash(self, repository):
        client = MlflowClient(f"sqlite:///{repository.folder}/mlflow.db")
        (experiment,) = (one for one in client.search_experiments() if one.name == "digits")
        named = {run.data.tags["tfpipe.dvc.path"] for run in client.search_runs([experiment.experiment_id])}

        assert named == {repository.outputs("pack")["data/packed"]}

    def test_the_bundle_belongs_to_the_version_that_training_registered(self, repository):
        champion = Registry(f"sqlite:///{repository.folder}/mlflow.db").resolve("models:/digits@champion")
        bundle = open_bundle(repository.folder / "bundles" / "dvc")

        assert (champion.version, champion.bundle_sha256) == ("1", bundle.sha256)
        assert (bundle.manifest.model_name, bundle.manifest.model_version) == ("digits", "1")

    def test_what_a_store_gives_back_is_what_was_pushed(self, repository, tmp_path):
        made = [
            repository.folder / name for name in ("data/digits", "data/packed", "runs/dvc/model.keras", "bundles/dvc")
        ]
        before = contents(made)
        with s3_server(tmp_path / "s3.log") as address:
            repository("remote", "add", "--default", "store", "s3://data/tfpipe")
            repository("remote", "modify", "store", "endpointurl", address)
            repository("push")
            shutil.rmtree(repository.folder / ".dvc" / "cache")
            for path in made:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

            repository("pull")

        assert contents(made) == before
        assert len(before) > 300


def contents(places):
    """Bytes by path."""
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_errors_in_the_data_stop_it_before_anything_is_packed(new_repository):
    repository = new_repository()
    (repository.folder / "data" / "digits" / "one" / "broken.png").write_bytes(b"no picture")

    told = repository("repro", expected=255)

    assert ran(told) == ["validate"]
    assert "failed to run: python -m tfpipe.data validate" in told
    assert "exited with 3" in told
    assert not (repository.folder / "data" / "packed").exists()


def test_another_number_of_files_is_asked_for_in_words():
    command = [sys.executable, str(ROOT / "examples" / "digits_as_files.py"), "digits", "many"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "usage: python examples/digits_as_files.py FOLDER [FILES_PER_CLASS]\n"
