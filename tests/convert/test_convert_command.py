"""`python -m tfpipe.convert` as a user starts it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.full_disk import files_of_at_most
from tfpipe.convert.__main__ import main
from tfpipe.convert.to_tensorrt import look_around, missing
from tfpipe.core.bundle import open_bundle
from tfpipe.ledger import MlflowLedger
from tfpipe.registry import Registry
from tfpipe.rollout.command import main as promote

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(300)]

CONVERT = [sys.executable, "-m", "tfpipe.convert"]
ROOT = Path(__file__).parents[2]
QUICK = ("conversion.latency_runs=1", "conversion.http_hop=false")
WAIT_S = 240.0


def environment(scratch):
    """That of a user who sets nothing; temporary files go to `scratch`."""
    given = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return {**given, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in this process: (exit code, standard error)."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return start


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def errors_in(stderr):
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_help_tells_options_keys_and_exit_codes(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")

    page = capsys.readouterr().out
    for words in ("--precision {fp32,fp16,int8}", "--search", "--max-trials N", "--max-minutes M",
                  "--backend {onnx,tftrt,tensorrt}", "--model MODEL", "--output DIR",
                  "conversion.max_metric_drop", "data.validation_path", "tracking.uri",
                  "exit codes: 0 done; 2"):  # fmt: skip
        assert words in page


def test_a_search_ends_with_the_fastest_way_that_passed(run, run_copy):
    code, stderr = run(
        "--model", run_copy, "--output", "out", "--search", "--max-trials", "2", *QUICK,
    )  # fmt: skip

    assert code == 0
    best = open_bundle(Path("out")).executions()[0]
    assert f"fastest that passed: {best.title}: {best.latency_ms['1']['p50']:.3f} ms for one row" in stderr
    page = Path("out", "report.md").read_text(encoding="utf-8")
    assert "The search ended after 2 trials, the most that --max-trials allows." in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-trials", "3"], "--max-trials, --max-minutes: expected --search beside them, received none."),
        (["--search", "--max-trials", "0"], "--max-trials: expected at least 1, received 0."),
        (["--search", "--max-minutes", "-1"], "--max-minutes: expected more than 0, received -1."),
    ],
)
def test_a_search_that_could_try_nothing_is_refused(run, arguments, sentence):
    code, stderr = run(*arguments)

    assert code == 2
    assert errors_in(stderr) == [f"error: {sentence}"]


def test_a_conversion_ends_with_its_figures_and_says_nothing_else(run_copy, scratch, tmp_path):
    done = subprocess.run(
        [*CONVERT, "--model", str(run_copy), "conversion.latency_runs=1"], cwd=tmp_path, env=environment(scratch),
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "bundles" / "small")
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines[-6:-3]] == ["fp32", "fp16", "int8"]
    assert lines[-3:] == [
        "bundle: bundles/small",
        "report: bundles/small/report.html",
        "serve it: python -m serving --model bundles/small",
    ]
    assert bundle.manifest.default_variant == "int8"
    # No news of the libraries: each line before the table is a phase with its time, or says what begins and ends.
    others = [line for line in lines[:-7] if not re.fullmatch(r"[^:]+: \d+\.\d s", line)]
    assert others == ["converting small to int8", f"bundle: bundles/small ({bundle.short_id})"]
    assert list(scratch.glob("tfpipe-*")) == []


def test_a_missed_gate_is_exit_code_3_with_the_numbers(run, run_copy, tmp_path):
    limits = ["conversion.min_size_reduction=0.9", "conversion.calibration_method=minmax", "conversion.latency_runs=1"]

    code, stderr = run("--model", run_copy, "--output", "out", *limits)

    assert code == 3
    (error,) = errors_in(stderr)
    assert re.search(r"small, int8: weights: expected at most 10% of .* received [\d.]+%", error)
    assert left_in(tmp_path) == ["copied-run", "out-report.html", "out-report.md"]


@pytest.mark.skipif(not missing("tftrt", look_around()), reason="TF-TRT can be used here")
def test_a_backend_that_is_missing_may_be_stood_in_for_and_the_bundle_says_so(run, run_copy, tmp_path):
    code, _ = run(
        "--model", run_copy, "--output", "out", "--precision", "fp32", "--backend", "tftrt", "--allow-fallback", *QUICK
    )

    assert code == 0
    fallback = open_bundle(tmp_path / "out").manifest.measured_on["fallback"]
    assert fallback == {"backend": "tftrt", "missing": missing("tftrt", look_around())}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "--backend tftrt was asked for; ONNX Runtime stands in, as it lacks: " in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gone"], "error: --model: expected models:/NAME/VERSION, models:/NAME@ALIAS, a model.keras, "),
        (["training.epochs=3"], "error: training.epochs: conversion takes conversion.opset, "),
        (["--config", "gone.yaml"], "error: --config: expected a YAML file, found none at 'gone.yaml'."),
        (["--backend", "tensorrt"], "error: --backend tensorrt: expected what it needs, but it lacks: "),
        (["--backend", "tftrt"], "error: --backend tftrt: expected what it needs, but it lacks: "),
        (["--model", "models:/gone/1", "tracking.uri=sqlite:///gone.db"], "error: expected a registry at sqlite:///"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(run, tmp_path, arguments, message):
    code, stderr = run(*arguments)

    assert code == 2
    assert message in stderr
    assert len(errors_in(stderr)) == 1
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("output", ["file/bundle", "/proc/folder/bundle"])
def test_an_output_that_cannot_be_written_is_one_sentence(run, run_copy, tmp_path, output):
    (tmp_path / "file").write_text("mine")

    code, stderr = run("--model", run_copy, "--output", output)

    assert code == 2
    (error,) = errors_in(stderr)
    assert error.startswith(
        f"error: --output: expected a folder that can be written, but '{output.removesuffix('/bundle')}': "
    )
    assert left_in(tmp_path) == ["copied-run", "file"]


# The first file of the bundle fits in 20 kB, all but the larger ones in 300 kB.
@pytest.mark.parametrize("limit_bytes", [20_000, 300_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, run_copy, tmp_path, limit_bytes):
    with files_of_at_most(limit_bytes):
        code, stderr = run("--model", run_copy, "--output", "out/bundle")

    assert code == 1
    (error,) = errors_in(stderr)
    assert re.search("File too large|full", error)
    assert left_in(tmp_path / "out") == []


def test_an_interrupted_conversion_leaves_nothing_half_written(run_copy, scratch, tmp_path):
    process = subprocess.Popen(
        [*CONVERT, "--model", str(run_copy), "--output", "out/bundle"],
        cwd=tmp_path, env=environment(scratch), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        # The first graph is written: it is in the middle of its work.
        while not list(tmp_path.glob("out/.bundle.*.tmp/preprocess.onnx")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()

    assert process.returncode == 75
    assert stderr.splitlines()[-1].startswith("stopped: ")
    assert errors_in(stderr) == []
    assert left_in(tmp_path / "out") == []
    assert list(scratch.glob("tfpipe-*")) == []


def test_a_registered_version_ends_with_the_command_that_promotes_it(run, store, later_version):
    registry = Registry(store)

    code, stderr = run("--precision", "fp32", f"tracking.uri={store}", *QUICK)

    assert code == 0
    attached, promotion = stderr.splitlines()[-2:]
    name = later_version.uri
    assert attached == f"attached to {name}; serve it: MLFLOW_TRACKING_URI={store} python -m serving --model {name}"
    typed = shlex.split(promotion.removeprefix("make it champion: tfpipe registry "))
    assert promote(typed) == 0
    assert registry.resolve("models:/small@champion").version == later_version.version
    assert MlflowLedger(store).newest("small").shares == {later_version.version: 1.0}


def test_of_a_champion_the_command_that_serves_it_is_said(run, store):
    uri = f"tracking.uri={store}"

    code, stderr = run("--model", "models:/small@champion", "--output", "bundle", "--precision", "fp32", uri, *QUICK)

    assert code == 0
    serve = f"MLFLOW_TRACKING_URI={store} python -m serving --model models:/small@champion"
    assert stderr.splitlines()[-1] == f"models:/small/1 is champion; serve it: {serve}"
