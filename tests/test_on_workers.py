"""Starts the tests of tests/workers under horovodrun, and compares the runs made there with those of one worker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.training.small_runs import STOPPED_AT, small_values, write_class_folders
from tests.training.small_text_runs import text_values, write_texts
from tests.training.test_processes import assert_same_run, newest
from tfpipe.config import load_config
from tfpipe.core.errors import StoppedError
from tfpipe.lr_find import main as lr_find
from tfpipe.train import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ROOT / "tests" / "workers"
LR_FIND = ("--steps", "60", "--lowest", "1e-5", "--highest", "1e6")
WHOLE_RUNS = "tests/workers/test_whole_runs.py"
STOPPED = f"{WHOLE_RUNS}::test_a_run_that_is_told_to_stop_does_so_in_mid_epoch"
RESUMED = f"{WHOLE_RUNS}::test_a_run_that_another_number_of_workers_left_is_resumed"
EQUIVALENCE = "tests/workers/test_equivalence.py"
# Of pytest: those that our settings need. To load all that are installed takes each worker three seconds.
PLUGINS = ("-p", "timeout", "-p", "asyncio", "-p", "xdist")
# What pytest is given for so many workers. Three are no power of two, so that shares of a batch differ.
SITTINGS = {
    4: [EQUIVALENCE, STOPPED, RESUMED],
    3: [
        *sorted({f"tests/workers/{path.name}" for path in WORKERS.glob("test_*.py")} - {EQUIVALENCE, WHOLE_RUNS}),
        RESUMED,
    ],
    2: [WHOLE_RUNS, "--deselect", STOPPED],
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of runs; with one of one worker that was stopped, and one that was not."""
    folder = tmp_path_factory.mktemp("shared")
    data = write_class_folders(folder / "data", num_samples=44)
    values = small_values(
        folder, data, epochs=3, optimizer="sgd", schedule="constant", reference_batch_size=6,
        callbacks=["tests.training.user_code:StopAt"],
    )  # fmt: skip
    values["tracking"]["registered_model"] = None
    (folder / "given.yaml").write_text(yaml.safe_dump(values))
    (folder / "lr-find.json").write_text(json.dumps(["--config", str(folder / "given.yaml"), *LR_FIND]))
    train(config_of(folder, "undisturbed"))
    for kind in ("single", "tags"):
        _train_on_texts(folder, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP_AT", str(STOPPED_AT))
        with pytest.raises(StoppedError):
            train(config_of(folder, "stopped-on-1"))
    return folder


def _train_on_texts(folder, kind):
    """A run of one worker over texts of many lengths. Of its last step, one text, a second worker has none."""
    data = write_texts(folder / kind, kind, num_samples=60)
    values = text_values(folder, data, kind, epochs=2, batch_size=4, optimizer="sgd", schedule="constant")
    values["preprocessing"]["tokenizer_kind"] = "bpe"
    values["tracking"]["registered_model"] = None
    (folder / f"given-{kind}.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / f"given-{kind}.yaml", [f"output_dir={folder}/undisturbed-{kind}"]))


@pytest.fixture(scope="module")
def sitting(shared):
    """Runs the tests of so many workers, once."""
    seen = {}

    def sit(workers):
        if workers not in seen:
            seen[workers] = None
            seen[workers] = _sit(workers, shared)
        done = seen[workers]
        assert done is not None, f"the tests over {workers} workers did not end"
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        assert done.stdout.count(" passed") >= workers

    return sit


def _sit(workers, shared):
    command = [
        str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", str(workers),
        sys.executable, "-m", "pytest", *SITTINGS[workers], "-q", "-p", "no:cacheprovider", *PLUGINS, "--timeout=800",
        "--durations=8",
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "SHARED_RUNS": str(shared),
             "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip


def config_of(shared, name):
    return load_config(shared / "given.yaml", [f"output_dir={shared / name}"])


# Four first: the others resume what they leave.
@pytest.mark.parametrize("workers", [4, 3, 2])
def test_what_is_tested_over_workers_holds(sitting, workers):
    sitting(workers)


@pytest.mark.parametrize("pieces", [1, 3])
def test_two_workers_train_what_one_trains(sitting, shared, pieces):
    sitting(2)

    assert_same_run(newest(shared / f"whole-on-2-in-{pieces}"), newest(shared / "undisturbed"))


@pytest.mark.parametrize("kind", ["single", "tags"])
def test_two_workers_train_on_texts_of_many_lengths_what_one_trains(sitting, shared, kind):
    sitting(2)

    found, expected = newest(shared / f"{kind}-on-2"), newest(shared / f"undisturbed-{kind}")
    assert_same_run(found, expected)
    for row, other in zip(found[1].history, expected[1].history, strict=True):
        for name in ("val_loss", "val_accuracy", "val_macro_f1"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.parametrize(
    ("workers", "name"),
    [(4, "stopped-on-1-resumed-on-4"), (3, "stopped-on-4-resumed-on-3"), (2, "stopped-on-4-resumed-on-2")],
)
def test_a_run_resumed_on_another_number_of_workers_ends_as_the_undisturbed_one(sitting, shared, workers, name):
    sitting(4)
    sitting(workers)

    assert_same_run(newest(shared / name), newest(shared / "undisturbed"))


def test_a_run_of_four_workers_resumed_on_one_ends_as_the_undisturbed_one(sitting, shared):
    sitting(4)
    shutil.copytree(shared / "stopped-on-4", shared / "stopped-on-4-resumed-on-1")

    result = train(config_of(shared, "stopped-on-4-resumed-on-1"), resume=True)

    assert result.workers == 1
    # Six steps an epoch; the wish to stop travels with the step after it.
    assert newest(shared / "stopped-on-4")[1].step == STOPPED_AT + 1
    assert_same_run(newest(result.output_dir), newest(shared / "undisturbed"))


def test_the_learning_rate_finder_suggests_the_same_on_two_workers(sitting, shared, tmp_path):
    code = lr_find([*json.loads((shared / "lr-find.json").read_text()), "--output", str(tmp_path)])

    sitting(2)
    assert code == 0
    folders = (tmp_path, shared / "lr-find-2")
    alone, together = (json.loads((folder / "lr_find.json").read_text()) for folder in folders)
    assert alone["suggestion"] == pytest.approx(together["suggestion"], rel=1e-6)
    # Until it diverges: there, rounding decides.
    assert together["losses"][:20] == pytest.approx(alone["losses"][:20], rel=1e-3)
    assert {path.name for path in folders[1].iterdir()} == {"lr_find.png", "lr_find.json"}
