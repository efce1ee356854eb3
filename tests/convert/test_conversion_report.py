from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.candidate import Measured
from tfpipe.convert.gate import Figures
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.report import Findings, render
from tfpipe.convert.trial import Contender, Trial
from tfpipe.core.bundle import Execution, Variant
from tfpipe.core.certificate import Certificate, Hop, Score
from tfpipe.core.parity import BOUNDS, ROWS

WEIGHTS = {"converted": {"a": "int8"}, "kept": {f"bias{i}": "int32: a bias" for i in range(10)}}


def measured(name, size, weights, score, latency=(1.0, 2.0)):
    metrics = {} if score is None else {"accuracy": score, "top1_agreement": 0.985}
    by_batch = {"1": {"p50": latency[0], "p95": 3.5, "p99": 4.5}, "8": {"p50": latency[1], "p95": 5.5, "p99": 6.5}}
    return Measured(
        Variant(name, f"model.{name}.onnx", {}, size, metrics, {"1": 1.0}, True, 0.01, WEIGHTS),
        Execution(
            name,
            latency_ms=by_batch,
            rows_per_second={"1": 1000.0, "8": 4000.0},
            metrics=metrics,
            peak_memory_bytes=70_000_000,
        ),
        Figures(name, size, weights, score, p50_ms=latency[0], p95_ms=3.5),
        neighbours=0.0,
    )


def findings_of(score=0.97, int8_latency=(0.25, 1.5)):
    findings = Findings("digits version 3", "int8", ConversionConfig())
    findings.add(measured("fp32", 4_000_000, 3_900_000, score and 0.98))
    findings.add(measured("int8", 1_100_000, 975_000, score, int8_latency))
    findings.num_validation, findings.num_corrupt = 360, 2
    findings.hops = [
        Hop("fp32", "rows -> model.fp32.onnx", "probabilities", 39, 1e-6, 1e-8, 1.0, None, BOUNDS["fp32"]),
        Hop("preprocess", "pixels -> preprocess.onnx", "rows", 39, 2e-7, 1e-9, None, None, ROWS),
    ]
    int8 = Trial(
        Contender("int8", Recipe("all", "minmax")), findings.measured["int8"].figures,
        latency_ms=findings.measured["int8"].execution.latency_ms,
    )  # fmt: skip
    broken = Trial(Contender("int8", Recipe("all", "entropy")), problem="int8: expected a graph.")
    findings.trials, findings.search_ended = [(int8, ""), (broken, broken.problem)], "after 2 trials"
    findings.measured_on = {"cores": 2, "library_versions": {"onnx": "1.18.0"}}
    return findings


def test_a_passed_report_holds_every_figure():
    findings = findings_of()
    findings.judge()
    page = render(findings, usage=["Serve it: `python -m serving`"])

    assert page.startswith("# Conversion of digits version 3\n\n**int8 passed**")
    figures = "0.250 | 3.500 | 4.500 | 1.500 | 5.500 | 6.500 | 4000 | 4.00 | 70 MB |"
    assert f"| int8 (served by default) | 1.100 MB | 27.5% | 25.0% | 97.00% | 98.50% | {figures}" in page
    assert (
        "Accuracy on the 360 validation samples of training, 2 more cannot be read. At most 2.00% may be lost." in page
    )
    assert "| rows -> model.fp32.onnx | 39 | 1e-06 | 1e-08 | 0.0001 + 0.001 × value | 100.00% | – |" in page
    assert "| pixels -> preprocess.onnx | 39 | 2e-07 | 1e-09 | 0.0001 + 0 × value | – | – |" in page
    assert "the same float32 operations in another order" in page
    assert "- int8: 1 converted, 10 kept" in page
    assert "and 2 more" in page
    for line in ("- Serve it: `python -m serving`", "- cores: 2"):
        assert f"\n{line}" in page


def test_what_was_tried_is_listed_with_the_reason_for_which_it_lost():
    page = render(findings_of(), usage=())

    assert "| int8 (minmax), cpu | 97.00% | 0.250 | 3.500 | 1.500 | 1.100 MB | **chosen** |" in page
    assert "| int8 (entropy), cpu | – | – | – | – | – | int8: expected a graph. |" in page
    assert "The search ended after 2 trials." in page


def test_the_certificate_gives_each_score_with_its_interval_and_says_what_was_left_out():
    findings = findings_of()
    score = Score("accuracy", 0.98, 0.96, 0.99, 360)
    hop = Hop("keras", "file -> Keras", "probabilities", 39, 0.0, 0.0, 1.0, score)
    findings.certificate = Certificate((hop,), {"http": "conversion.http_hop=false"}, {}, "2025-01-01T00:00:00+00:00")

    page = render(findings, usage=())

    assert "| same class as Keras | accuracy (95 % interval) |" in page
    assert "| 98.00% (96.00% to 99.00%) |" in page
    assert "- http was not measured: conversion.http_hop=false." in page


def test_a_variant_that_is_slower_than_fp32_is_said_to_be():
    page = render(findings_of(int8_latency=(1.5, 3.0)), usage=())

    assert "On this processor int8 takes 1.50 times as long as fp32: it saves room, not time." in page


def test_a_forced_report_leads_with_what_was_overruled():
    findings = findings_of()
    findings.forced = ["accuracy: expected at most 2.00% below fp32's 98.00%, received 90.00%."]

    assert "**int8 was forced (`--force`) although it misses limits:**\n\n- accuracy" in render(findings, usage=())


def test_a_failed_report_leads_with_what_was_missed_and_offers_no_use():
    findings = findings_of()
    findings.missed = ["accuracy: expected at most 2.00% below fp32's 98.00%, received 90.00%."]

    page = render(findings, usage=())

    assert "**int8 failed; no bundle was made.**\n\n- accuracy: expected at most 2.00%" in page
    assert "## Use" not in page


def test_a_report_of_a_conversion_that_failed_at_once_is_still_a_page():
    findings = Findings("digits", "fp16", ConversionConfig(), missed=["rows: expected ..."])

    assert render(findings, usage=()) == (
        "# Conversion of digits\n\n**fp16 failed; no bundle was made.**\n\n- rows: expected ...\n"
    )


def test_where_no_accuracy_was_measured_it_says_so():
    findings = findings_of(score=None)
    findings.num_validation = 0

    assert "No accuracy was measured; the notes say why." in render(findings, usage=())


def test_every_way_to_run_a_variant_is_judged_and_what_was_asked_for_comes_first():
    findings = findings_of(score=0.9)

    missed = findings.judge()

    assert [one.variant for one in findings.executions] == ["int8", "fp32"]
    assert tuple(missed) == findings.executions[0].missed
    assert findings.executions[1].passed
