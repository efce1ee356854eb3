"""Run by the Python of another environment, by this file's path: stores the weights of products in 4 or 8 bits.

    python -I weight_only_worker.py check
    python -I weight_only_worker.py quantize INPUT.onnx OUTPUT.onnx '{"bits": 4, "block_size": 32}'

Takes nothing of tfpipe, which need not be there. The last line that it prints is its answer, as JSON.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

# Smaller weights, such as a head's, are not worth what they lose.
_LEAST_NUMBERS = 1024
# Source: ONNX Runtime, ContribOperators, MatMulNBits, block_size.
_LEAST_BLOCK = 16
# MatMulNBits computes with activations in int8 blocks of a row, which is faster than float32 where there is VNNI, and
# costs less than the weights' own rounding. Source: ONNX Runtime, ContribOperators, MatMulNBits, accuracy_level.
_INT8_ACTIVATIONS = 4
_LIBRARIES = ("onnxruntime", "onnx", "onnx-ir")


def main(arguments: list[str]) -> dict[str, Any]:
    """Do what the command line asks; gives the answer."""
    if arguments == ["check"]:
        return {name: version(name) for name in _LIBRARIES}
    command, source, target, settings = arguments
    if command != "quantize":
        raise SystemExit(f"expected check or quantize, received {command!r}")
    return {"quantized": quantize(source, target, **json.loads(settings))}


def quantize(source: str, target: str, *, bits: int, block_size: int) -> int:
    """Write a graph whose products with stored weights are MatMulNBits; gives how many there are.

    Args:
        source: An ONNX file.
        target: The one to write.
        bits: Of a weight, 4 or 8.
        block_size: Weights of a column that share a scale; fewer where a column has not so many.
    """
    model = onnx.load(source)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    products = {node.name: shapes[node.input[1]] for node in model.graph.node if _is_product(node, shapes)}
    large = {name: shape for name, shape in products.items() if np.prod(shape) >= _LEAST_NUMBERS}
    shortest = min((rows for *_, rows, _ in large.values()), default=_LEAST_BLOCK)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bits,
        # A block is padded to its whole size.
        block_size=min(block_size, max(_LEAST_BLOCK, 1 << (shortest.bit_length() - 1))),
        is_symmetric=True,
        accuracy_level=_INT8_ACTIVATIONS,
        nodes_to_exclude=[name for name in products if name not in large],
    )
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    return sum(node.op_type == "MatMulNBits" for node in quantizer.model.model.graph.node)


def _is_product(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    return node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) > 1


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])) + "\n")
