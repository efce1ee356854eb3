"""Which way a service runs a bundle in, and what it does where that way fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.app import engines_of_settings
from serving.engine import Engine
from serving.selection import Candidate, candidates, open_first
from serving.settings import ServingSettings
from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import app_of, serving
from tfpipe.core.bundle import Bundle, Execution, open_bundle
from tfpipe.core.errors import BundleError, ConfigError, GateError
from tfpipe.ort_providers import installed_providers
from tfpipe.tune import tune
from tfpipe.tuned import Choice, this_machine, write_choice

HERE = ("cpu", "openvino")
RECORDED = (
    Execution("int8", "openvino", "bfloat16", golden_max_abs_diff=0.01),
    Execution("int8", golden_max_abs_diff=0.01),
    Execution("fp32", "cuda"),
    Execution("fp16", missed=("Accuracy fell.",)),
    Execution("fp32"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    return open_bundle(make_bundle(folder, manifest_changes={"executions": RECORDED}))


def choice_of(bundle: Bundle, *executions: Execution) -> Choice:
    return Choice(bundle.sha256, this_machine(), None, 1, executions, "2026-01-01T00:00:00+00:00")


def titles(listed: list[Candidate]) -> list[str]:
    return [one.execution.title for one in listed]


@pytest.mark.parametrize(
    ("precision", "provider", "installed", "expected"),
    [
        ("auto", "auto", HERE, ["int8, openvino (bfloat16)", "int8, cpu", "fp32, cpu"]),
        ("auto", "auto", ("cpu",), ["int8, cpu", "fp32, cpu"]),
        ("auto", "cpu", HERE, ["int8, cpu", "fp32, cpu"]),
        ("fp32", "auto", HERE, ["fp32, cpu"]),
        ("int8", "auto", HERE, ["int8, openvino (bfloat16)", "int8, cpu"]),
        ("int8", "openvino", HERE, ["int8, openvino (bfloat16)"]),
        # What missed the gate, or was never measured, runs where the settings name it and nothing else.
        ("fp16", "auto", HERE, ["fp16, cpu"]),
        ("fp32", "openvino", HERE, ["fp32, openvino"]),
        ("auto", "tensorrt", HERE, ["int8, tensorrt"]),
        ("auto", "auto", ("cpu", "cuda"), ["int8, cpu", "fp32, cuda", "fp32, cpu"]),
    ],
)
def test_ways_are_those_of_conversion_that_this_machine_has(bundle, precision, provider, installed, expected):
    assert titles(candidates(bundle, precision=precision, provider=provider, installed=installed)) == expected


def test_what_was_tuned_comes_first_and_the_rest_after_it(bundle):
    choice = choice_of(
        bundle, Execution("fp32", "openvino"), Execution("int8"), Execution("fp16", missed=("too slow",))
    )

    found = candidates(bundle, precision="auto", provider="auto", choice=choice, installed=HERE)

    assert titles(found) == ["fp32, openvino", "int8, cpu", "int8, openvino (bfloat16)", "fp32, cpu"]
    assert [one.why for one in found[:3]] == [
        "tuned on this machine", "tuned on this machine", "in the order of conversion",
    ]  # fmt: skip


def test_settings_are_stronger_than_what_was_tuned(bundle):
    choice = choice_of(bundle, Execution("fp32", "openvino"), Execution("int8"))

    found = candidates(bundle, precision="int8", provider="auto", choice=choice, installed=HERE)

    assert titles(found) == ["int8, cpu", "int8, openvino (bfloat16)"]


def test_a_gpu_is_used_although_conversion_had_none(tmp_path):
    plain = open_bundle(make_bundle(tmp_path / "b"))

    found = candidates(plain, precision="auto", provider="auto", installed=("cpu", "cuda"))
    tuned = candidates(
        plain, precision="auto", provider="auto", installed=("cpu", "cuda"), choice=choice_of(plain, Execution("fp32"))
    )

    assert titles(found) == ["int8, cuda", "int8, cpu"]
    assert titles(tuned) == ["fp32, cpu", "int8, cpu"]


def test_a_precision_that_is_not_there_is_refused(bundle):
    with pytest.raises(BundleError, match=r"^TFPIPE_SERVING_PRECISION: .* fp16, fp32, int8, received 'int4'"):
        candidates(bundle, precision="int4", provider="auto")


class Opened:
    """An engine whose golden answers differ where it is told so."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self._error = name, error
        self.is_closed = False

    def replay_golden(self) -> float:
        if self._error:
            raise self._error
        return 0.0

    def close(self) -> None:
        self.is_closed = True


def opening(**errors: Exception):
    def open_one(candidate: Candidate):
        name = candidate.execution.variant
        error = errors.get(name)
        if isinstance(error, ConfigError):
            raise error
        return Opened(name, error)

    return open_one


LISTED = [Candidate(Execution(name), "why") for name in ("int8", "fp16", "fp32")]


def test_a_way_that_does_not_open_or_answers_otherwise_is_passed_over(caplog):
    engine = open_first(LISTED, opening(int8=ConfigError("not here."), fp16=GateError("too far.")))

    assert engine.name == "fp32"
    assert engine.passed_over == ("int8, cpu: not here.", "fp16, cpu: too far.")
    assert [record.fields["way"] for record in caplog.records] == ["int8, cpu", "fp16, cpu"]


def test_what_a_way_that_is_passed_over_has_opened_is_closed():
    opened = []

    def open_one(candidate: Candidate) -> Opened:
        opened.append(Opened(candidate.execution.variant, None if opened else GateError("too far.")))
        return opened[-1]

    open_first(LISTED, open_one)

    assert [(one.name, one.is_closed) for one in opened] == [("int8", True), ("fp16", False)]


def test_a_single_way_that_fails_says_itself_why():
    with pytest.raises(ConfigError, match=r"^not here\.$"):
        open_first(LISTED[:1], opening(int8=ConfigError("not here.")))


def test_where_every_way_fails_each_says_why():
    errors = {"int8": ConfigError("not here."), "fp16": GateError("too far."), "fp32": MemoryError("no room.")}

    with pytest.raises(GateError, match=r"found none\. int8, cpu: not here\. fp16, cpu: too far\. fp32, cpu: no room"):
        open_first(LISTED, opening(**errors))


def engine_of(folder: Path, **settings) -> Engine:
    return next(engines_of_settings(ServingSettings(model=str(folder), **settings)))


def test_the_service_runs_what_was_tuned(bundle, tmp_path):
    tuned = tune(bundle.folder, cache_dir=tmp_path, max_minutes=0.1)

    engine = engine_of(bundle.folder, cache_dir=tmp_path)

    best = tuned.choice.passed[0]
    assert (engine.precision, engine.provider, engine.arithmetic) == (best.variant, best.provider, best.arithmetic)
    assert engine.why == "tuned on this machine"


def test_health_says_what_was_passed_over_and_answers_come_from_the_next(tmp_path):
    variants = open_bundle(make_bundle(tmp_path / "plain")).manifest.variants
    # Its file is fp32's, but its recorded difference allows nothing: golden answers are 0.05 off.
    near = {**variants, "fp32": replace(variants["fp32"]), "int8": replace(variants["int8"], golden_max_abs_diff=0.1)}
    folder = make_bundle(
        tmp_path / "b",
        golden_offset=0.05,
        manifest_changes={
            "variants": near,
            "executions": (Execution("fp32"), Execution("int8", golden_max_abs_diff=0.1)),
        },
    )

    with serving(app_of(folder, cache_dir=tmp_path / "cache")) as server:
        (model,) = server.client.get("/health").json()["models"]
        answer = server.client.post("/predict", content=RED).json()

    assert (model["precision"], model["provider"], model["arithmetic"]) == ("int8", "cpu", "float32")
    assert model["why"] == "in the order of conversion: not tuned on this machine"
    assert len(model["passed_over"]) == 1
    assert model["passed_over"][0].startswith("fp32, cpu: golden samples of 'colours', fp32 on cpu")
    assert answer["precision"] == "int8"


@pytest.mark.skipif("tensorrt" in installed_providers(), reason="TensorRT is installed here")
def test_a_tuned_way_that_this_machine_lost_is_passed_over(bundle, tmp_path):
    write_choice(tmp_path, bundle, choice_of(bundle, Execution("fp32", "tensorrt"), Execution("fp32")))

    engine = engine_of(bundle.folder, cache_dir=tmp_path)

    assert (engine.precision, engine.provider) == ("fp32", "cpu")
    assert "received 'tensorrt', which is not installed here" in engine.passed_over[0]


def test_a_named_precision_is_never_replaced_by_another(tmp_path):
    folder = make_bundle(
        tmp_path / "b", golden_offset=0.05, manifest_changes={"executions": (Execution("fp32"), Execution("int8"))}
    )

    with pytest.raises(GateError, match="fp32 on cpu"):
        engine_of(folder, precision="fp32", cache_dir=tmp_path)


def test_one_of_several_variants_of_a_precision_is_judged_by_its_own_record(tmp_path):
    plain = make_bundle(tmp_path / "plain")
    variants = open_bundle(plain).manifest.variants
    # Another file than int8's, and the only one that was 0.05 off at conversion.
    other = replace(variants["int8"], file="model.fp16.onnx", golden_max_abs_diff=0.05)
    folder = make_bundle(
        tmp_path / "b",
        golden_offset=0.05,
        manifest_changes={
            "variants": {"fp32": variants["fp32"], "int8": variants["int8"], "int8-signed": other},
            "executions": (Execution("int8-signed", golden_max_abs_diff=0.05), Execution("int8")),
        },
    )

    engine = engine_of(folder, cache_dir=tmp_path / "cache")

    assert (engine.variant, engine.precision, engine.passed_over) == ("int8-signed", "int8", ())
