import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.serving.bundles import make_bundle
from tests.serving.text_bundles import make_text_bundle
from tests.text.texts import CORPUS
from tfpipe.core.bundle import Execution, Manifest, Variant, open_bundle, seal
from tfpipe.core.errors import ConfigError, GateError, InferenceError
from tfpipe.core.golden_tensors import GoldenTensors, write_golden_tensors
from tfpipe.core.signature import TensorSpec
from tfpipe.latency import Speed, Trial
from tfpipe.ort import open_session
from tfpipe.ort_providers import Way, installed_providers
from tfpipe.text.train_tokenizer import train_tokenizer
from tfpipe.tune import candidates, main, table, tune
from tfpipe.tuned import Machine, find_choice, this_machine, write_choice

CPU, OPENVINO, HALF = Way(), Way("openvino"), Way("openvino", "bfloat16")
TWO_CORES = Machine("a processor", 2, (), {"onnxruntime": "1.31.1"})


def on_two_providers(precision: str) -> list[Way]:
    return [CPU, OPENVINO, HALF]


class Laboratory:
    """Tries ways as a process would, on the CPU in truth; what a way takes and answers is as told.

    Args:
        milliseconds: By variant and provider, of a row.
        wrong: Added to the answers, by variant and provider.
        beside: Added to the answers of batches.
    """

    def __init__(self, milliseconds, wrong=None, beside=None):
        self.milliseconds, self.wrong, self.beside = milliseconds, wrong or {}, beside or {}
        self.tried = []

    def __call__(self, file: Path, way: Way, **asked) -> Trial:
        name = f"{file.name.split('.')[1]} {way.title}"
        self.tried.append(name)
        if name not in self.milliseconds:
            raise InferenceError(f"model on {way.title}: its process ended.")
        session = open_session(file, provider="cpu", threads=1)
        answered = [session.run(feed) for feed in asked["answered"]]
        for output in answered:
            if len(output["probabilities"]) > 1:
                output["probabilities"] = output["probabilities"] + np.float32(self.beside.get(name, 0))
            output["probabilities"] = output["probabilities"] + np.asarray(self.wrong.get(name, 0), np.float32)
        sizes = [str(size) for size in asked["batches"]]
        took = {size: dict.fromkeys(("p50", "p95", "p99"), self.milliseconds[name] * int(size)) for size in sizes}
        return Trial(answered, Speed(took, dict.fromkeys(sizes, 1.0)), 1_000_000, ())


def tuned_with(folder: Path, cache: Path, laboratory: Laboratory, **options):
    return tune(
        folder,
        cache_dir=cache,
        **{"offered": on_two_providers, "trial": laboratory, "machine": TWO_CORES, **options},
    )


def titles(executions) -> list[str]:
    return [one.title for one in executions]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Its int8 and fp32 passed the gate on the CPU, fp16 did not, nor int8 on OpenVINO."""
    executions = (
        Execution("int8", golden_max_abs_diff=0.01, metrics={"accuracy": 1.0}),
        Execution("fp32", golden_max_abs_diff=1e-7, metrics={"accuracy": 1.0}),
        Execution("int8", "openvino", missed=("Accuracy fell by 5 points.",)),
        Execution("fp16", missed=("Accuracy fell by 9 points.",)),
    )
    folder = tmp_path_factory.mktemp("bundles") / "b"
    return make_bundle(folder, manifest_changes={"executions": executions})


def test_what_passed_the_gate_is_tried_first_and_what_failed_it_not_at_all(bundle, tmp_path):
    every = ["int8 cpu", "int8 openvino (bfloat16)", "fp32 cpu", "fp32 openvino", "fp32 openvino (bfloat16)"]
    laboratory = Laboratory(dict.fromkeys(every, 1.0))

    tuned = tuned_with(bundle, tmp_path, laboratory)

    assert laboratory.tried[:2] == ["int8 cpu", "fp32 cpu"]
    assert set(laboratory.tried) == set(every)
    (refused,) = [one for one in tuned.choice.executions if not one.passed]
    assert refused.title == "int8, openvino"
    assert refused.missed == ("It missed the gate at conversion: Accuracy fell by 5 points.",)


def test_the_fastest_that_answers_as_training_did_is_chosen(bundle, tmp_path):
    laboratory = Laboratory(
        {"int8 cpu": 3.0, "fp32 cpu": 4.0, "fp32 openvino": 1.0, "fp32 openvino (bfloat16)": 2.0},
        wrong={"fp32 openvino": 0.01},
    )

    tuned = tuned_with(bundle, tmp_path, laboratory)

    assert titles(tuned.choice.passed) == ["fp32, openvino (bfloat16)", "int8, cpu", "fp32, cpu"]
    shown = table(tuned)
    assert "fp32, openvino (bfloat16)" in shown.splitlines()[3]
    assert "chosen" in shown.splitlines()[3]
    assert "1.50 times the best's time" in shown
    assert "received a largest difference of 0.01" in shown
    assert "model on openvino (bfloat16): its process ended." in shown


def test_a_way_that_conversion_did_not_measure_must_give_keras_classes(tmp_path):
    plain = open_bundle(make_bundle(tmp_path / "plain")).manifest.variants
    # So far off at conversion that a single golden answer is no measure; the gate judged its accuracy there.
    variants = {**plain, "int8": replace(plain["int8"], golden_max_abs_diff=0.5)}
    executions = (Execution("int8", golden_max_abs_diff=0.5),)
    folder = make_bundle(tmp_path / "b", manifest_changes={"variants": variants, "executions": executions})
    to_red = np.float32([1, 0, 0])
    names = ("int8 cpu", "int8 openvino (bfloat16)")

    tuned = tuned_with(folder, tmp_path, Laboratory(dict.fromkeys(names, 1.0), wrong=dict.fromkeys(names, to_red)))

    assert titles(tuned.choice.passed) == ["int8, cpu"]
    (refused,) = [one for one in tuned.choice.executions if one.arithmetic == "bfloat16"]
    assert refused.missed == (
        "50.0% of the golden samples get the class that Keras gives; as conversion did not measure this way, expected "
        "all.",
    )


def test_ways_that_are_close_are_measured_again_in_the_other_order_and_the_better_turn_counts(bundle, tmp_path):
    turns = {"int8 cpu": [1.0, 1.0], "fp32 cpu": [1.2, 0.9], "fp32 openvino": [1.1, 1.3], "int8 openvino": [9.0]}

    class Busy(Laboratory):
        def __call__(self, file, way, **asked):
            name = f"{file.name.split('.')[1]} {way.title}"
            self.milliseconds = {name: turns[name].pop(0)} if name in turns else {}
            return super().__call__(file, way, **asked)

    laboratory = Busy({})

    tuned = tuned_with(bundle, tmp_path, laboratory, offered=lambda precision: [CPU, OPENVINO])

    assert laboratory.tried == ["int8 cpu", "fp32 cpu", "fp32 openvino", "fp32 openvino", "fp32 cpu", "int8 cpu"]
    assert {one.title: one.latency_ms["1"]["p50"] for one in tuned.choice.passed} == {
        "fp32, cpu": 0.9, "int8, cpu": 1.0, "fp32, openvino": 1.1,
    }  # fmt: skip


def test_a_way_that_fails_when_it_is_measured_again_is_not_chosen(bundle, tmp_path):
    class Fragile(Laboratory):
        def __call__(self, file, way, **asked):
            if len(self.tried) == 3:
                self.milliseconds = {}
            return super().__call__(file, way, **asked)

    tuned = tuned_with(bundle, tmp_path, Fragile({"int8 cpu": 1.0, "fp32 cpu": 1.1}), offered=lambda precision: [CPU])

    assert titles(tuned.choice.passed) == ["fp32, cpu"]


def test_the_batch_that_decides_can_be_chosen(bundle, tmp_path):
    fast_alone = Laboratory({"int8 cpu": 1.0, "fp32 cpu": 2.0})

    def slow_together(file, way, **asked):
        trial = fast_alone(file, way, **asked)
        if "int8" in file.name:
            trial.speed.latency_ms["32"]["p50"] *= 10
        return trial

    assert tuned_with(bundle, tmp_path, slow_together, batch_size=32).choice.passed[0].variant == "fp32"
    assert tuned_with(bundle, tmp_path, fast_alone).choice.passed[0].variant == "int8"


def test_a_row_that_depends_on_its_neighbours_comes_last_unless_it_is_allowed(bundle, tmp_path):
    laboratory = Laboratory({"int8 cpu": 1.0, "fp32 cpu": 2.0}, beside={"int8 cpu": 0.005})

    kept_apart = tuned_with(bundle, tmp_path, laboratory)
    allowed = tuned_with(bundle, tmp_path, laboratory, allow_batch_dependent=True)

    assert titles(kept_apart.choice.passed) == ["fp32, cpu", "int8, cpu"]
    assert "a row's answer depends on the rows beside it; 0.50 times the best's time" in table(kept_apart)
    assert titles(allowed.choice.passed) == ["int8, cpu", "fp32, cpu"]
    assert "chosen, although a row's answer depends on the rows beside it" in table(allowed)


def test_a_row_that_depends_on_its_neighbours_is_chosen_where_nothing_else_passes(bundle, tmp_path):
    laboratory = Laboratory({"int8 cpu": 1.0}, beside={"int8 cpu": 0.005})

    assert titles(tuned_with(bundle, tmp_path, laboratory).choice.passed) == ["int8, cpu"]


def test_a_variant_that_conversion_marked_stays_marked(tmp_path):
    variants = open_bundle(make_bundle(tmp_path / "plain")).manifest.variants
    marked = {name: replace(variant, batch_invariant=name != "int8") for name, variant in variants.items()}
    folder = make_bundle(tmp_path / "b", manifest_changes={"variants": marked})

    tuned = tuned_with(folder, tmp_path / "cache", Laboratory({"int8 cpu": 1.0, "fp32 cpu": 2.0}))

    assert titles(tuned.choice.passed) == ["fp32, cpu", "int8, cpu"]


def test_a_way_of_which_nothing_passes_is_exit_code_3_and_keeps_no_choice(bundle, tmp_path):
    with pytest.raises(GateError, match=r"found none\. int8, cpu: model on cpu: its process ended\."):
        tuned_with(bundle, tmp_path, Laboratory({}))

    assert not [*tmp_path.rglob("*.json")]


def test_time_that_is_over_leaves_the_rest_untried_but_never_everything(bundle, tmp_path):
    laboratory = Laboratory({"int8 cpu": 1.0, "fp32 cpu": 0.5})

    tuned = tuned_with(bundle, tmp_path, laboratory, max_minutes=1e-6)

    assert laboratory.tried == ["int8 cpu"]
    assert [one.missed for one in tuned.choice.executions if one.title == "fp32, cpu"] == [
        ("Not tried: the time was over. Raise --max-minutes.",)
    ]


def test_a_bundle_that_lists_no_ways_is_tried_with_its_default_and_what_judged_it(tmp_path):
    bundle = open_bundle(make_bundle(tmp_path / "b"))

    assert titles(candidates(bundle, lambda precision: [CPU])) == ["int8, cpu", "fp32, cpu"]


def test_of_a_forced_bundle_only_what_was_forced_is_tried(tmp_path):
    changes = {"forced": ("Accuracy fell.",), "executions": (Execution("int8", missed=("Accuracy fell.",)),)}
    bundle = open_bundle(make_bundle(tmp_path / "b", manifest_changes=changes))

    assert titles(candidates(bundle, lambda precision: [CPU])) == ["int8, cpu"]


def test_a_bundle_runs_and_its_choice_is_found_again_on_this_machine_alone(bundle, tmp_path):
    tuned = tune(bundle, cache_dir=tmp_path, max_minutes=0.1, threads=1)

    opened = open_bundle(bundle)
    assert {"int8, cpu", "fp32, cpu"} <= set(titles(tuned.choice.passed))
    assert all(one.peak_memory_bytes > 10e6 for one in tuned.choice.passed)
    assert find_choice(tmp_path, opened, this_machine()) == (tuned.choice, "")
    elsewhere = replace(this_machine(), processor="another")
    assert find_choice(tmp_path, opened, elsewhere) == (None, "tuned on another machine or with other libraries")


@pytest.mark.skipif("openvino" not in installed_providers(), reason="OpenVINO's plugin takes no processor here")
def test_openvino_is_measured_where_it_runs(bundle, tmp_path):
    assert "fp32, openvino" in titles(tune(bundle, cache_dir=tmp_path, max_minutes=0.2).choice.passed)


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_texts_are_tuned_too(task, tmp_path):
    tokenizer = train_tokenizer(CORPUS, kind="bpe", vocabulary_size=300)
    folder = make_text_bundle(tmp_path / "b", tokenizer, task=task)

    tuned = tune(folder, cache_dir=tmp_path / "cache", max_minutes=0.05, offered=lambda precision: [CPU])

    assert tuned.choice.passed[0].golden_max_abs_diff < 1e-5


def make_tensor_bundle(folder: Path, *, offset: float = 0.0) -> Path:
    """Of two inputs the sum, and whether it is positive."""
    folder.mkdir(parents=True)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("a", "b")]
    results = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("up", TensorProto.BOOL, ["batch", 2]),
    ]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Greater", ["sum", "zero"], ["up"])]
    graph = helper.make_graph(nodes, "g", given, results, [numpy_helper.from_array(np.float32(0), "zero")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / "model.fp32.onnx"
    path.write_bytes(model.SerializeToString())
    inputs = {"a": np.float32([[1, 2], [3, 4]]), "b": np.float32([[0, -9], [1, 1]])}
    total = inputs["a"] + inputs["b"]
    write_golden_tensors(folder, [GoldenTensors(inputs, {"sum": total + np.float32(offset), "up": total > 0})])
    spec = [TensorSpec(name, "float32", ("batch", 2)) for name in ("a", "b", "sum")]
    manifest = Manifest(
        "sums", None, "tensor", (), tuple(spec[:2]), (spec[2], TensorSpec("up", "bool", ("batch", 2))), (),
        {"fp32": Variant("fp32", path.name, {}, path.stat().st_size, {}, {"1": 0.1}, True, 0.0, {})}, "fp32", {}, {},
        "2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    seal(folder, manifest)
    return folder


def test_models_of_named_tensors_are_tuned_too(tmp_path):
    tuned = tune(
        make_tensor_bundle(tmp_path / "b"), cache_dir=tmp_path, max_minutes=0.05, offered=lambda precision: [CPU]
    )

    assert titles(tuned.choice.passed) == ["fp32, cpu"]
    assert set(tuned.choice.passed[0].latency_ms) == {"1", "8"}


def test_named_tensors_that_differ_are_not_chosen(tmp_path):
    folder = make_tensor_bundle(tmp_path / "b", offset=0.5)

    with pytest.raises(GateError, match="golden samples: expected tensors within"):
        tune(folder, cache_dir=tmp_path, max_minutes=0.05, offered=lambda precision: [CPU])


def test_without_a_choice_the_reason_says_so(bundle, tmp_path):
    assert find_choice(tmp_path, open_bundle(bundle), TWO_CORES) == (None, "not tuned on this machine")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"machine": {"gpus": 1}}', "\x00"])
def test_a_damaged_choice_counts_as_none(bundle, tmp_path, content):
    tuned = tuned_with(bundle, tmp_path, Laboratory({"int8 cpu": 1.0}))
    tuned.file.write_text(content)

    assert find_choice(tmp_path, open_bundle(bundle), TWO_CORES) == (None, "what was tuned cannot be read; tune again")


def test_a_choice_of_another_bundle_under_this_ones_name_counts_as_none(bundle, tmp_path):
    tuned = tuned_with(bundle, tmp_path, Laboratory({"int8 cpu": 1.0}))
    write_choice(tmp_path, open_bundle(bundle), replace(tuned.choice, bundle_sha256="0" * 64))

    found, reason = find_choice(tmp_path, open_bundle(bundle), TWO_CORES)

    assert found is None
    assert reason == "what was tuned is not of this bundle on this machine; tune again"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_minutes": 0}, "--max-minutes: expected more than 0, received 0"),
        ({"max_minutes": float("nan")}, "--max-minutes: expected more than 0, received nan"),
        ({"threads": 0}, "--threads: expected at least 1, received 0"),
        ({"batch_size": -1}, "--batch-size: expected at least 1, received -1"),
    ],
)
def test_numbers_out_of_range_are_refused(bundle, tmp_path, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tune(bundle, cache_dir=tmp_path, **options)


def test_the_bundle_stays_as_it_was(tmp_path):
    folder = make_bundle(tmp_path / "b")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    tuned_with(folder, tmp_path / "cache", Laboratory({"int8 cpu": 1.0}))

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def failure(capsys, *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().err


def test_what_cannot_be_tuned_is_one_sentence_and_its_exit_code(bundle, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    cache = str(tmp_path / "cache")
    broken = make_bundle(tmp_path / "broken")
    (broken / "model.fp32.onnx").write_bytes(b"changed")
    astray = make_bundle(tmp_path / "astray", golden_offset=0.2)

    assert failure(capsys, str(tmp_path), "--cache-dir", cache) == (
        2,
        f"error: {tmp_path}: expected a bundle (a folder with bundle.json), found none.\n",
    )
    code, error = failure(capsys, str(broken), "--cache-dir", cache)
    assert (code, error.count("\n")) == (2, 1)
    assert "The file was changed after the bundle was made" in error
    code, error = failure(capsys, str(bundle), "--cache-dir", str(tmp_path / "taken" / "cache"))
    assert (code, error.count("\n")) == (2, 1)
    assert "--cache-dir: expected a folder that can be written" in error
    code, error = failure(capsys, str(astray), "--cache-dir", cache, "--max-minutes", "0.05")
    assert code == 3
    assert "expected a way to run it that answers as training did, found none. int8, cpu: golden samples" in error


def test_the_command_prints_the_table_and_needs_no_tensorflow(bundle, tmp_path):
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'onnx', 'tf2onnx')));"
        "from tfpipe.cli import main; sys.exit(main())"
    )
    options = ["--cache-dir", str(tmp_path), "--max-minutes", "0.1", "--threads", "1"]

    done = subprocess.run(
        [sys.executable, "-c", script, "tune", str(bundle), *options], capture_output=True, text=True, check=True
    )

    (kept,) = (tmp_path / "tuned").glob("*.json")
    assert f"kept for the service on this machine: {kept}" in done.stdout
    assert "1 threads" not in done.stderr
    assert "chosen" in done.stdout
    assert json.loads(kept.read_text())["threads"] == 1
