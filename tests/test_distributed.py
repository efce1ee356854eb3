"""The world of a single process; tests/workers has several."""

import json
import os
import subprocess
import sys

import pytest

from tfpipe.core.errors import ConfigError, DataError, TrainingError
from tfpipe.distributed import World, is_lost_worker, join, launched_rank

LAUNCHER = ("HOROVOD_SIZE", "HOROVOD_RANK", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "PMI_RANK")  # fmt: skip


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_a_process_is_alone():
    assert join() == World(rank=0, size=1, local_rank=0, local_size=1)
    assert World().is_chief
    assert launched_rank() == 0


def test_alone_horovod_and_tensorflow_are_not_imported():
    program = "import sys; from tfpipe.distributed import join; join(); print([m for m in sys.modules if 'horovod' in m or m == 'tensorflow'])"  # noqa: E501
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}

    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "[]\n"


def test_alone_every_exchange_gives_back_what_was_given():
    world = World()
    tensors = [object(), object()]

    assert world.allreduce_sum(tensors) == tensors
    assert world.broadcast_object({"a": 1}) == {"a": 1}
    assert world.gather_objects("mine") == ["mine"]
    assert world.broadcast_variables([]) is None
    assert world.together(lambda: 3) == 3
    assert world.on_chief(lambda: 4) == 4
    assert world.on_chief(lambda: None) is None


@pytest.mark.parametrize("name", ["together", "on_chief"])
def test_errors_come_through_as_they_are(name):
    def fail():
        raise DataError("data.path: gone.")

    with pytest.raises(DataError, match=r"data.path: gone\."):
        getattr(World(), name)(fail)


@pytest.mark.parametrize("name", ["together", "on_chief"])
def test_an_error_of_the_system_becomes_a_sentence(name, tmp_path):
    with pytest.raises(TrainingError, match=r"nowhere: No such file or directory\."):
        getattr(World(), name)((tmp_path / "nowhere").read_bytes)


def test_a_bug_is_not_taken_for_an_error_of_the_user():
    with pytest.raises(ZeroDivisionError):
        World().together(lambda: 1 // 0)


@pytest.mark.parametrize("variable", ["HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"])
def test_the_launcher_tells_the_rank_before_anything_is_imported(monkeypatch, variable):
    monkeypatch.setenv(variable, "3")

    assert launched_rank() == 3


@pytest.mark.parametrize("variable", ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_started_by_a_launcher_without_horovod_a_process_refuses_to_train_alone(monkeypatch, variable):
    affinity, before = os.sched_getaffinity(0), dict(os.environ)
    monkeypatch.setenv(variable, "4")
    # As where it is not installed; the ./horovod folder of launch assets can be imported, and must not count.
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    try:
        with pytest.raises(ConfigError, match=r"started by horovodrun as one of .* but Horovod cannot be imported"):
            join()
    finally:
        os.sched_setaffinity(0, affinity)
        for name in set(os.environ) - set(before) - {variable}:
            del os.environ[name]


JOIN = (
    "import os, sys; sys.modules['horovod.tensorflow'] = None\n"
    "from tfpipe.distributed import join\n"
    "try: join({options})\n"
    "except ValueError: print(sorted(os.sched_getaffinity(0)), os.environ.get('TF_NUM_INTRAOP_THREADS'))"
)
# Starts the workers as a launcher on the given cores does; one that binds gives each worker the core of its number.
LAUNCH = """
import json, os, subprocess, sys
cores, local_size, binds, program = json.loads(sys.argv[1])
os.sched_setaffinity(0, cores)
for rank in range(local_size):
    environment = {**os.environ, "HOROVOD_SIZE": str(local_size), "HOROVOD_LOCAL_RANK": str(rank),
                   "HOROVOD_LOCAL_SIZE": str(local_size)}
    bind = (lambda: os.sched_setaffinity(0, {cores[rank]})) if binds else None
    print(subprocess.check_output([sys.executable, "-c", program], env=environment, preexec_fn=bind, text=True), end="")
"""


def launched(local_size, *, options="", binds=False, environment=None):
    """What each worker prints: its cores, as positions among the first two of this machine, and its threads."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core")
    arguments = json.dumps([cores, local_size, binds, JOIN.format(options=options)])
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, arguments], capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    return [([cores.index(core) for core in json.loads(numbers)], threads) for numbers, _, threads in lines]


@pytest.mark.parametrize(
    ("local_size", "expected"),
    [(1, [([0, 1], "2")]), (2, [([0], "1"), ([1], "1")]), (3, [([0], "1"), ([1], "1"), ([0], "1")])],
)
def test_workers_of_a_machine_share_its_cores(local_size, expected):
    assert launched(local_size) == expected


def test_cores_that_the_launcher_chose_are_kept():
    assert launched(2, binds=True) == [([0], "None"), ([1], "None")]


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ("placement='none'", {}, ([0, 1], "None")),
        ("threads=3", {}, ([0], "3")),
        # The environment is the user's word, the configuration the later one.
        ("", {"TF_NUM_INTRAOP_THREADS": "4"}, ([0], "4")),
        ("threads=3", {"TF_NUM_INTRAOP_THREADS": "4"}, ([0], "3")),
    ],
)
def test_cores_and_threads_are_the_users_to_choose(options, environment, expected):
    assert launched(2, options=options, environment=environment)[0] == expected


def test_a_lost_worker_is_told_from_a_failed_step_by_whose_error_it_is():
    import tensorflow as tf

    def error(message):
        return tf.errors.UnknownError(None, None, message)

    reset = "[/a/gloo/transport/tcp/pair.cc:589] Read error [127.0.0.1]:1: Connection reset by peer"
    assert is_lost_worker(error("{{node HorovodAllreduce_sum}} was shut down"))
    # An operation that is all that its function does is not named.
    assert is_lost_worker(error(f"{{{{function_node __inference_<lambda>_1}}}} {reset}"))
    assert not is_lost_worker(error("{{node MatMul}} failed"))
    assert not is_lost_worker(TrainingError(reset))
