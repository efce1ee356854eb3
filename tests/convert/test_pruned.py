"""A pruned model from training to its bundle: what is 0 stays 0, and the report says what it cost and what it saves."""

import json
import re

import onnx
import pytest

from tfpipe.convert.sparsity import zero_share
from tfpipe.core.sparsity import num_pruned, zeros
from tfpipe.models.assembly import load_model
from tfpipe.training.pruning import prunable_kernels

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture
def bundle(grey_bundle):
    return grey_bundle


def test_a_pruned_classifier_of_digits_has_the_sparsity_and_still_tells_them(pruned):
    kernels = prunable_kernels(load_model(pruned.output_dir / "model.keras").network)
    card = json.loads((pruned.output_dir / "model.json").read_text())["pruning"]

    found = [(zeros(kernel.numpy()), kernel.numpy().size) for kernel in kernels]
    assert found == [(num_pruned(size, 0.8), size) for _, size in found]
    assert [(of["zeros"], of["weights"]) for of in card["kernels"].values()] == found
    assert pruned.metrics["val_accuracy"] > 0.9
    # 20 % of 10 epochs came before the first weight was pruned.
    assert (card["sparsity"], card["dense"]["epoch"], card["dense"]["sparsity"]) == (0.8, 1.0, 0.0)


def test_the_zeros_are_in_every_file_of_the_bundle(bundle):
    shares = {name: zero_share(onnx.load(bundle.folder / of.file)) for name, of in bundle.manifest.variants.items()}

    assert shares["fp32"] == pytest.approx(0.8, abs=1e-3)
    assert shares["fp16"] == pytest.approx(0.8, abs=1e-3)
    # The smallest of the others are rounded to 0.
    assert 0.8 < shares["int8"] < 0.9


def test_the_report_has_sparsity_compressed_size_and_accuracy_side_by_side(bundle):
    page = (bundle.folder / "report.md").read_text()

    section = page.partition("## Pruning")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\S+) \| ([\d.]+)% \| [\d.]+ MB \| [\d.]+ MB \((\d+)%\) \| [\d.]+%", section, re.M)
    assert [name for name, *_ in rows] == ["fp32", "fp16", "int8"]
    assert all(float(share) >= 79.9 and int(compressed) < 60 for _, share, compressed in rows)
    assert "| Keras after epoch 2, the last before pruning | 0.0% |" in section
    assert "They make nothing faster" in section
