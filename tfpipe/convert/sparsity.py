"""What pruning left in the files of a bundle: zeros, size when compressed, and the score beside that of before."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from tfpipe.convert.candidate import Measured
from tfpipe.core.sparsity import zeros

# Of these a stored 0 is the number 0: our int8 weights have zero points of 0.
_COUNTED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)


def zero_share(model: onnx.ModelProto) -> float:
    """Share of zeros among the stored weights of two and more axes; 0 where there are none."""
    arrays = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in _COUNTED and len(tensor.dims) > 1
    ]
    total = sum(array.size for array in arrays)
    return sum(map(zeros, arrays)) / total if total else 0.0


def sections(card: Mapping[str, Any], folder: Path, measured: Mapping[str, Measured]) -> list[str]:
    """What the report says of a pruned model, as Markdown; nothing of another.

    Args:
        card: model.json; of its `pruning` see `tfpipe.training.pruning.pruning_card`.
        folder: Of the bundle, with the files of all variants.
        measured: By variant, fp32 first.
    """
    return [_section(card["pruning"], folder, measured)] if "pruning" in card else []


def _section(card: Mapping[str, Any], folder: Path, measured: Mapping[str, Measured]) -> str:
    metric = measured["fp32"].figures.metric
    lines = [
        "## Pruning",
        "",
        f"| | weights that are 0 | file | file, compressed (zlib) | {metric.replace('_', ' ')} |",
        "|---" * 5 + "|",
        *_dense_line(card["dense"], metric),
        *(_line(name, one, folder / one.variant.file) for name, one in measured.items()),
        "",
        f"{card['sparsity']:.1%} of each of {len(card['kernels'])} kernels was pruned in training; tables, norms and "
        "depthwise convolutions were not. Zeros make a file compress better. They make nothing faster: ONNX Runtime "
        "multiplies by them like by any other number.",
    ]
    return "\n".join(lines)


def _dense_line(dense: Mapping[str, float], metric: str) -> list[str]:
    if f"val_{metric}" not in dense:
        return []
    epoch = int(dense["epoch"]) + 1
    return [f"| Keras after epoch {epoch}, the last before pruning | 0.0% | – | – | {dense[f'val_{metric}']:.2%} |"]


def _line(name: str, one: Measured, path: Path) -> str:
    content = path.read_bytes()
    share = zero_share(onnx.load_from_string(content))
    compressed = len(zlib.compress(content)) / len(content)
    score = "–" if one.figures.score is None else f"{one.figures.score:.2%}"
    size = len(content) / 1e6
    return f"| {name} | {share:.1%} | {size:.3f} MB | {size * compressed:.3f} MB ({compressed:.0%}) | {score} |"
