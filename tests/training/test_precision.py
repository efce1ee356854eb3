"""Which precision a device gets, and the proof of it."""

import logging

import pytest

from tests.training.small_runs import small_config, write_class_folders
from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError
from tfpipe.train import train
from tfpipe.training.checkpoints import load
from tfpipe.training.precision import Device, Trial, candidate, check, decide, present_device, recorded
from tfpipe.training_settings import TrainingConfig

pytestmark = pytest.mark.tensorflow

CPU, GPU = Device("CPU", None, True), Device("H100", (9, 0))


@pytest.mark.parametrize(
    ("device", "policy"),
    [
        (Device("H100", (9, 0)), "mixed_bfloat16"),
        (Device("A100", (8, 0)), "mixed_bfloat16"),
        (Device("T4", (7, 5)), "mixed_float16"),
        (Device("P100", (6, 0)), "float32"),
        (Device("CPU", None, True), "mixed_bfloat16"),
        (Device("CPU", None, False), "float32"),
    ],
)
def test_the_candidate_is_what_the_device_is_made_for(device, policy):
    assert candidate(device) == policy


@pytest.mark.parametrize(
    ("flags", "bfloat16"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx512f avx2", False)],
)
def test_a_cpus_flags_tell_whether_it_computes_in_bfloat16(tmp_path, flags, bfloat16):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: amx_bf16 avx512_bf16\nflags\t\t: {flags}\n")

    device = present_device(tmp_path / "cpuinfo")

    if device.compute_capability is None:
        assert device.bfloat16 is bfloat16


@pytest.mark.parametrize(
    ("mixed", "plain", "chosen", "reason"),
    [
        ([1.0], [1.5], "mixed_bfloat16", "1.50 times as fast on CPU"),
        ([1.0], [1.01], "float32", "not faster on CPU"),
        ([2.0], [1.0], "float32", "not faster on CPU"),
        # The slowest worker decides.
        ([0.5, 2.0], [1.0, 1.0], "float32", "not faster"),
        ([0.5, 0.6], [1.0, 1.2], "mixed_bfloat16", "2.00 times"),
    ],
)
def test_the_faster_one_is_chosen_and_float32_where_it_is_not_clear(mixed, plain, chosen, reason):
    trials = {"mixed_bfloat16": [Trial(s, True) for s in mixed], "float32": [Trial(s, True) for s in plain]}

    policy, why = decide("mixed_bfloat16", CPU, trials)

    assert policy == chosen
    assert reason in why


def test_a_loss_that_is_not_finite_on_one_worker_means_float32():
    trials = {"mixed_float16": [Trial(0.1, True), Trial(0.1, False)], "float32": [Trial(1.0, True)] * 2}

    assert decide("mixed_float16", GPU, trials) == (
        "float32",
        "mixed_float16 gave a loss or gradient that is not finite",
    )


def test_float16_without_a_gpu_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"no GPU, received 'mixed_float16'.* up to 50 times slower than float32"):
        check(TrainingConfig(precision="mixed_float16"), CPU)

    check(TrainingConfig(precision="mixed_float16"), GPU)
    check(TrainingConfig(precision="mixed_float16", allow_slow_precision=True), CPU)
    check(TrainingConfig(precision="mixed_bfloat16"), CPU)


@pytest.mark.slow
def test_auto_trains_what_the_precision_that_it_chose_trains_and_is_resumed_with_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = write_class_folders(tmp_path / "data")
    (tmp_path / "named").mkdir()
    auto = small_config(tmp_path, data, ["training.precision=auto", "training.deterministic=true"])

    train(auto)

    chosen = load_config(tmp_path / "run" / "config.yaml").training.precision
    assert chosen in ("float32", "mixed_bfloat16", "mixed_float16")
    assert f"precision: {chosen}; " in caplog.text
    # The trial leaves no trace in the weights.
    train(small_config(tmp_path / "named", data, [f"training.precision={chosen}", "training.deterministic=true"]))
    weights, named = (
        load(max((root / "run" / "checkpoints").glob("step-*")))[0] for root in (tmp_path, tmp_path / "named")
    )
    assert [array.tobytes() for array in weights.values()] == [array.tobytes() for array in named.values()]
    # Resumed with `auto`, a run keeps what it was resolved to.
    (tmp_path / "run" / "result.json").unlink()
    longer = small_config(
        tmp_path, data, ["training.precision=auto", "training.deterministic=true", "training.epochs=3"]
    )
    assert recorded(longer, tmp_path / "run" / "config.yaml").training.precision == chosen
    train(longer, resume=True)
    assert load_config(tmp_path / "run" / "config.yaml").training.precision == chosen
