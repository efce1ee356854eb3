"""How far two forms of a graph differ."""

import zlib
from collections import Counter

import onnx
from onnx import numpy_helper

Contents = Counter[bytes]


def contents(model: onnx.ModelProto) -> Contents:
    """What a graph consists of: its nodes, stored tensors and operator sets."""
    nodes = Counter(_node(node) for node in model.graph.node)
    tensors = Counter(_tensor(tensor) for tensor in model.graph.initializer)
    versions = Counter(f"{entry.domain or 'ai.onnx'} {entry.version}".encode() for entry in model.opset_import)
    return nodes + tensors + versions


def num_changes(before: Contents, after: Contents) -> int:
    """Parts that were removed, replaced or added."""
    return max((before - after).total(), (after - before).total())


def _node(node: onnx.NodeProto) -> bytes:
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    # Names of nodes, and the order of attributes, mean nothing: ONNX Runtime writes them as they come.
    plain.name = plain.doc_string = ""
    attributes = sorted(plain.attribute, key=lambda attribute: attribute.name)
    del plain.attribute[:]
    plain.attribute.extend(attributes)
    serialized: bytes = plain.SerializeToString(deterministic=True)
    return serialized


def _tensor(tensor: onnx.TensorProto) -> bytes:
    # What is stored raw, as all large tensors are, need not be copied once more.
    checksum = zlib.crc32(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
    return f"{tensor.name} {tensor.data_type} {list(tensor.dims)} {checksum}".encode()
