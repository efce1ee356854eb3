"""Requests that TensorFlow Serving runs before it answers: `assets.extra/tf_serving_warmup_requests` of a SavedModel.

Written without TensorFlow and without tensorflow-serving-api, which is generated code for one version of protobuf.
Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, tensorflow/core/framework/tensor.proto,
tensorflow_serving/apis/{model,predict,prediction_log}.proto, and TensorFlow Serving, "SavedModel Warmup".
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfpipe.core import atomic
from tfpipe.core.errors import BundleError
from tfpipe.core.signature import Array
from tfpipe.data.tfrecord import frame
from tfpipe.data.wire import Buffer, Span, integer, message, messages
from tfpipe.decode import decode_with_header

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# TensorFlow Serving takes 1000 at most; a few show it every shape that it will meet.
_MAX_REQUESTS = 8
_STRING = 7
_DATA_TYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10,
    "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


def image_request(content: bytes, row: Array) -> dict[str, Array]:
    """What the signatures of images take, of one image.

    Args:
        content: The file. Left out where TensorFlow's decoders, which are all that a SavedModel has, read it otherwise:
            a logged request that fails would keep the server from loading the model.
        row: (height, width, channels) float32, what preprocessing makes of it.
    """
    image = decode_with_header(content)
    request = {"pixels": image.pixels[None], "input": row[None]}
    return {**request, "image_bytes": np.array([content], object)} if image.is_plain else request


def text_request(content: bytes, row: Array) -> dict[str, Array]:
    """What the signatures of texts take, of one text.

    Args:
        content: UTF-8.
        row: (tokens,) int32, what the tokenizer makes of it.
    """
    return {"text": np.array([content], object), "input": row[None]}


def write_warmup(saved_model_dir: Path, requests: Sequence[Mapping[str, Array]]) -> int:
    """Write the warm-up file of a SavedModel: each signature is asked whatever a request holds all inputs of.

    Args:
        saved_model_dir: Holds saved_model.pb.
        requests: Array by name of an input, batch axis included; see `image_request` and `text_request`. The first
            few are taken.

    Returns:
        How many requests the file holds.

    Raises:
        BundleError: No SavedModel there.
    """
    logs = [
        prediction_log(signature, {name: request[name] for name in names})
        for signature, names in sorted(signatures_of(saved_model_dir).items())
        for request in requests[:_MAX_REQUESTS]
        if request.keys() >= set(names)
    ]
    (saved_model_dir / WARMUP_FILE).parent.mkdir(exist_ok=True)
    atomic.write_file(saved_model_dir / WARMUP_FILE, b"".join(map(frame, logs)))
    return len(logs)


def signatures_of(saved_model_dir: Path) -> dict[str, tuple[str, ...]]:
    """The names of the inputs of each signature that can be asked.

    Raises:
        BundleError: No SavedModel there.
    """
    path = saved_model_dir / "saved_model.pb"
    try:
        content = path.read_bytes()
        found = {
            _text(content, name): tuple(_text(content, key) for key, _ in _entries(content, definition, 1))
            for graph in messages(content, Span(0, len(content)), 2)
            for name, definition in _entries(content, graph, 5)
        }
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected a SavedModel, received none ({error}).") from error
    if not found:
        raise BundleError(f"{path}: expected a SavedModel with signatures, received none.")
    # TensorFlow keeps its initializer among them, which takes nothing.
    return {name: inputs for name, inputs in found.items() if inputs}


def prediction_log(signature: str, inputs: Mapping[str, Array]) -> bytes:
    """A PredictionLog that holds a PredictLog that holds a PredictRequest, serialized as Protocol Buffers do.

    Args:
        signature: Name of the signature asked.
        inputs: By name; strings as bytes in arrays of objects.
    """
    specification = message(3, signature.encode())
    tensors = (message(2, _entry(name, _tensor(array))) for name, array in inputs.items())
    return message(6, message(1, message(1, specification) + b"".join(tensors)))


def _tensor(array: Array) -> bytes:
    """A TensorProto."""
    is_string = array.dtype == object
    shape = b"".join(message(2, integer(1, length)) for length in array.shape)
    head = integer(1, _STRING if is_string else _DATA_TYPES[array.dtype.name]) + message(2, shape)
    if is_string:
        return head + b"".join(message(8, value) for value in array.ravel().tolist())
    return head + message(4, np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())


def _entry(key: str, value: bytes) -> bytes:
    """An entry of a map."""
    return message(1, key.encode()) + message(2, value)


def _entries(buffer: Buffer, span: Span, number: int) -> Iterator[tuple[Span, Span]]:
    """Where key and value of each entry of a map are."""
    empty = Span(span.stop, span.stop)
    for entry in messages(buffer, span, number):
        yield next(messages(buffer, entry, 1), empty), next(messages(buffer, entry, 2), empty)


def _text(buffer: Buffer, span: Span) -> str:
    return buffer[span.start : span.stop].decode()
