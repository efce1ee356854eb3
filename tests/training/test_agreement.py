"""What workers must have in common: found before the first step, with the workers and keys named."""

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


@pytest.mark.tensorflow
@pytest.mark.horovod
@pytest.mark.slow
def test_a_configuration_missing_on_one_machine_is_told_by_it(tmp_path):
    values = small_values(tmp_path, write_class_folders(tmp_path / "data"))
    # Both names are this machine's. --gloo spares the launcher a look for MPI, which starts TensorFlow once more.
    names = local_host_names(2)
    (tmp_path / f"{names[0]}.yaml").write_text(yaml.safe_dump(values))

    done = subprocess.run(
        [HOROVODRUN, "--gloo", "-np", "2", "-H", ",".join(f"{name}:1" for name in names),
         "sh", "-c", f"exec {TRAIN} --config $HOROVOD_HOSTNAME.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.returncode != 0
    assert f"[1]<stderr>:error: --config: expected a YAML file, found none at '{names[1]}.yaml'" in done.stderr


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
