"""What workers must have in common: found before the first step, with the workers and keys named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.hosts import local_host_names
from tests.training.small_runs import small_config, small_values, write_class_folders
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.distributed import World
from tfpipe.training.agreement import check_enough_for_all, differences

ROOT = Path(__file__).resolve().parent.parent.parent
HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
TRAIN = f"{sys.executable} -m tfpipe.train"


def horovodrun(folder, script, *, hosts, slots=1):
    """Run a line of shell on every worker, each of which may see something else."""
    names = local_host_names(hosts)
    # --gloo spares the launcher a look for MPI, which starts TensorFlow once more.
    command = [HOROVODRUN, "--gloo", "-np", str(hosts * slots), "-H", ",".join(f"{name}:{slots}" for name in names)]
    return subprocess.run(
        [*command, "sh", "-c", script],
        cwd=folder, capture_output=True, text=True, timeout=240, check=False,
        # Workers start in folders of their own.
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
    )  # fmt: skip


@pytest.fixture
def config(tmp_path):
    """The file of a small run; its data path is relative."""
    write_class_folders(tmp_path / "data")
    values = small_values(tmp_path, "data")
    values["tracking"]["registered_model"] = None
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def reason(folder):
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status["exit_code"] == 2, status
    return status["reason"]


DIFFERENT = (
    f"exec {TRAIN} --config run.yaml training.learning_rate=0.0$((HOROVOD_RANK + 1)) training.seed=$HOROVOD_RANK"
)
OTHER_DATA = f"cd $HOROVOD_RANK && exec {TRAIN} --config ../run.yaml"
SMALL_BATCH = f"exec {TRAIN} --config run.yaml training.batch_size=2"


@pytest.mark.tensorflow
@pytest.mark.horovod
@pytest.mark.slow
@pytest.mark.timeout(300)
class TestOnWorkers:
    def test_different_configurations_are_named_by_key_value_worker_and_machine(self, tmp_path, config):
        done = horovodrun(tmp_path, DIFFERENT, hosts=2)

        assert done.returncode != 0
        said = reason(tmp_path)
        assert "worker(s) 1 (127.0.0.1) differ from worker 0 (localhost)" in said
        assert "training.learning_rate: 0.01 on worker(s) 0, 0.02 on worker(s) 1" in said
        assert "training.seed: 0 on worker(s) 0, 1 on worker(s) 1" in said
        assert "output_dir" not in said
        # Nothing but the status is left: the next start needs no flag.
        assert not (tmp_path / "run" / "config.yaml").exists()

    def test_different_data_are_named_by_worker(self, tmp_path, config):
        for rank in range(2):
            (tmp_path / str(rank)).mkdir()
            write_class_folders(tmp_path / str(rank) / "data", num_samples=24 - 2 * rank)

        done = horovodrun(tmp_path, OTHER_DATA, hosts=2)

        assert done.returncode != 0
        assert "data.path: expected the same data on every worker, but worker(s) 1 (127.0.0.1)" in reason(tmp_path)

    def test_a_batch_smaller_than_the_workers_is_refused(self, tmp_path, config):
        done = horovodrun(tmp_path, SMALL_BATCH, hosts=1, slots=3)

        assert done.returncode != 0
        assert "training.batch_size: expected at least one sample a worker, received 2 for 3" in reason(tmp_path)

    def test_data_missing_on_one_machine_are_told_with_its_name(self, tmp_path, config):
        (tmp_path / "0").mkdir()
        (tmp_path / "1").mkdir()
        (tmp_path / "data").rename(tmp_path / "0" / "data")

        done = horovodrun(tmp_path, OTHER_DATA, hosts=2)

        assert done.returncode != 0
        assert reason(tmp_path).startswith("worker 1 (127.0.0.1): data.path: ")

    def test_a_configuration_missing_on_one_machine_is_told_by_it(self, tmp_path, config):
        config.rename(tmp_path / "localhost.yaml")

        done = horovodrun(tmp_path, f"exec {TRAIN} --config $HOROVOD_HOSTNAME.yaml", hosts=2)

        assert done.returncode != 0
        assert "[1]<stderr>:error: --config: expected a YAML file, found none at '127.0.0.1.yaml'" in done.stderr


def test_only_what_differs_is_told_with_all_who_have_each_value():
    everyone = [{"a": 1, "b": [2]}, {"a": 1, "b": [3]}, {"a": 1, "b": [2], "c": "x"}, *[{"a": 1, "b": [3]}] * 9]

    assert differences(everyone[:1]) == []
    assert differences(everyone[1:2] + everyone[3:]) == []
    assert differences(everyone) == [
        "b: [2] on worker(s) 0, 2, [3] on worker(s) 1, 3, 4, 5, 6, 7, 8, 9 and 2 more",
        "c: None on worker(s) 0, 1, 3, 4, 5, 6, 7, 8 and 3 more, 'x' on worker(s) 2",
    ]


def test_as_many_samples_and_as_large_a_batch_as_workers_are_enough(tmp_path):
    config = small_config(tmp_path, "data", batch_size=3)
    world = World(rank=0, size=3)

    check_enough_for_all(config, 3, world)
    with pytest.raises(DataError, match="received 2 for 3 workers"):
        check_enough_for_all(config, 2, world)
    with pytest.raises(ConfigError, match="received 3 for 4 workers"):
        check_enough_for_all(config, 4, World(rank=0, size=4))


@pytest.mark.parametrize(("rank", "exit_code"), [("0", 2), ("1", 0)])
def test_only_the_chief_needs_the_folder_that_is_resumed(tmp_path, rank, exit_code):
    done = subprocess.run(
        [*TRAIN.split(), "--resume", "--print-config", f"output_dir={tmp_path}/${{now:%Y}}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "HOROVOD_RANK": rank},
    )  # fmt: skip

    assert (done.returncode, "found none" in done.stderr) == (exit_code, exit_code == 2)
