from tfpipe.convert.gate import Figures
from tfpipe.convert.hops import Hop
from tfpipe.convert.report import Findings, render
from tfpipe.core.bundle import Variant


def _findings():
    findings = Findings("digits version 3", "int8", max_metric_drop=0.02)
    findings.figures = {
        "fp32": Figures("fp32", 4_000_000, 3_900_000, 0.98),
        "int8": Figures("int8", 1_100_000, 975_000, 0.97),
    }
    findings.variants["int8"] = Variant(
        "int8", "model.int8.onnx", {}, 1_100_000, {"accuracy": 0.97, "top1_agreement": 0.985}, {"1": 0.25, "8": 1.5},
        True, 0.01, {"converted": {"a": "int8"}, "kept": {f"bias{i}": "int32: a bias" for i in range(10)}},
    )  # fmt: skip
    findings.num_validation, findings.num_corrupt = 360, 2
    findings.hops = [
        Hop("rows -> model.fp32.onnx", 1e-6, "0.0001 + 0.001 × value", 1.0, 39),
        Hop("pixels -> preprocess.onnx", 2e-7, "0.0001 + 0 × value", None, 39),
    ]
    findings.attempts = ["minmax: accuracy 97.00%, fp32 98.00%"]
    findings.measured_on = {"cores": 2, "library_versions": {"onnx": "1.18.0"}}
    return findings


def test_a_passed_report_holds_every_figure():
    page = render(_findings(), usage=["Serve it: `python -m serving`"])

    assert page.startswith("# Conversion of digits version 3\n\n**int8 passed**")
    assert "| int8 (asked for) | 1.100 MB | 27.5% | 25.0% | 97.00% | 98.50% | 0.250 | 1.500 |" in page
    assert "| fp32 | 4.000 MB | 100.0% | 100.0% | 98.00% | – | – | – |" in page
    assert (
        "Accuracy on the 360 validation samples of training, 2 more cannot be read. At most 2.00% may be lost." in page
    )
    assert "| rows -> model.fp32.onnx | 39 | 1e-06 | 0.0001 + 0.001 × value | 100.00% |" in page
    assert "| pixels -> preprocess.onnx | 39 | 2e-07 | 0.0001 + 0 × value | – |" in page
    assert "- int8: 1 converted, 10 kept" in page
    assert "and 2 more" in page
    for line in ("- minmax: accuracy 97.00%, fp32 98.00%", "- Serve it: `python -m serving`", "- cores: 2"):
        assert f"\n{line}" in page


def test_a_failed_report_leads_with_what_was_missed_and_offers_no_use():
    findings = _findings()
    findings.missed = ["accuracy: expected at most 2.00% below fp32's 98.00%, received 90.00%."]

    page = render(findings, usage=())

    assert "**int8 failed; no bundle was made.**\n\n- accuracy: expected at most 2.00%" in page
    assert "## Use" not in page


def test_a_report_of_a_conversion_that_failed_at_once_is_still_a_page():
    findings = Findings("digits", "fp16", max_metric_drop=0.02, missed=["rows: expected ..."])

    assert render(findings, usage=()) == (
        "# Conversion of digits\n\n**fp16 failed; no bundle was made.**\n\n- rows: expected ...\n"
    )


def test_where_no_accuracy_was_measured_it_says_so():
    findings = _findings()
    findings.figures = {"fp32": Figures("fp32", 100, 90, None)}
    findings.num_validation = 0

    assert "No accuracy was measured; the notes say why." in render(findings, usage=())
