"""The protocols over HTTP: our own /predict, Open Inference Protocol v2 in JSON and in binary, TensorFlow Serving's.

Sources: Open Inference Protocol, "HTTP/REST"; Triton, "Binary Tensor Data Extension"; TensorFlow Serving, "RESTful
API".
"""

import base64
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote, urlencode

from tfpipe.bench.asking import AskedModel, Sample, Takes, choose, datatype_of, spec, takes_of_inputs
from tfpipe.bench.channel import UNREACHABLE, Channel, Reply
from tfpipe.bench.http_channel import HttpChannel, render_request
from tfpipe.core.errors import ConfigError
from tfpipe.core.signature import Array, TensorSpec

_JSON = {"Content-Type": "application/json"}
_BINARY = "application/octet-stream"
_TAKEN: dict[str, Takes] = {
    "image_classification": "image",
    "text_classification": "text",
    "token_classification": "text",
    "tensor": "tensors",
}
# TensorFlow's names of types in a signature.
_TENSORFLOW = {"DT_FLOAT": "FP32", "DT_DOUBLE": "FP64", "DT_HALF": "FP16", "DT_STRING": "BYTES", "DT_UINT8": "UINT8"}
_TENSORFLOW |= {"DT_INT32": "INT32", "DT_INT64": "INT64", "DT_INT8": "INT8", "DT_BOOL": "BOOL"}


class HttpAsking(ABC):
    """What the protocols over HTTP share; see `Asking`."""

    def __init__(self, url: SplitResult, headers: Mapping[str, str], *, timeout_s: float) -> None:
        """Connect to nothing yet.

        Args:
            url: Of the service.
            headers: Sent with every request.
            timeout_s: Longest time for an answer.
        """
        self.url, self.headers, self._timeout_s = url, dict(headers), timeout_s

    @property
    def where(self) -> str:
        """The service, for messages."""
        return self.url.geturl()

    @abstractmethod
    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """See `Asking`."""

    @abstractmethod
    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""

    def open_channel(self) -> Channel:
        """See `Asking`."""
        return HttpChannel(self.url, timeout_s=self._timeout_s)

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The bytes of a POST."""
        return render_request(self.url, "POST", path, {**self.headers, **headers}, body)

    async def ask(self, method: str, path: str) -> Reply:
        """One request beside the load.

        Raises:
            ConfigError: Nothing answers.
        """
        channel = self.open_channel()
        try:
            reply = await channel.exchange(render_request(self.url, method, path, self.headers, b""))
        finally:
            channel.close()
        if reply.outcome == UNREACHABLE:
            raise ConfigError(f"{self.where}: expected a service, but no connection could be made. {reply.excerpt()}")
        return reply

    async def document(self, path: str, *, method: str = "GET") -> Any:
        """A JSON document of the service.

        Raises:
            ConfigError: There is none.
        """
        reply = await self.ask(method, path)
        if not reply.ok:
            said = f": {reply.excerpt()}" if reply.body else ""
            raise ConfigError(f"{self.where}: expected {path} to be answered, received {reply.outcome}{said}")
        try:
            return json.loads(reply.body)
        except ValueError as error:
            raise ConfigError(f"{self.where}: expected JSON from {path}; {error}.") from error


class PredictAsking(HttpAsking):
    """`POST /predict`."""

    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """See `Asking`."""
        health = await self.document("/health")
        models = {one["name"]: one for one in health.get("models", [])}
        chosen = choose(list(models), name, where=self.where)
        takes = _TAKEN.get(models[chosen].get("task", ""), "tensors")
        if takes == "tensors":
            raise ConfigError(
                f"{self.where}: /predict takes images and texts; model {chosen!r} takes tensors. --protocol v2"
            )
        return AskedModel(chosen, version, takes)

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""
        query = {"model_name": model.name, **({"model_version": model.version} if model.version else {})}
        path = f"/predict?{urlencode(query)}"
        if isinstance(sample, bytes):
            return self.post(path, {"Content-Type": _BINARY}, sample)
        return self.post(path, _JSON, json.dumps({"text": sample}).encode())


class V2Asking(HttpAsking):
    """The Open Inference Protocol, tensors as JSON."""

    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """See `Asking`."""
        if name is None:
            index = await self.document("/v2/repository/index", method="POST")
            name = choose([one["name"] for one in index], None, where=self.where)
        metadata = await self.document(_v2_path(name, version))
        return v2_model(name, version, [(i["name"], i["datatype"], i["shape"]) for i in metadata["inputs"]], self.where)

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""
        inputs: list[dict[str, Any]]
        if isinstance(sample, bytes):
            data = base64.b64encode(sample).decode()
            inputs = [_described("image", "BYTES", [1]) | {"parameters": {"content_type": "base64"}, "data": [data]}]
        elif isinstance(sample, str):
            inputs = [_described("text", "BYTES", [1]) | {"data": [sample]}]
        else:
            inputs = [
                _described(name, datatype_of(array), list(array.shape)) | {"data": array.ravel().tolist()}
                for name, array in sample.items()
            ]
        path = f"{_v2_path(model.name, model.version)}/infer"
        return self.post(path, _JSON, json.dumps({"inputs": inputs}).encode())


class V2BinaryAsking(V2Asking):
    """The Open Inference Protocol with its binary extension, both ways."""

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""
        inputs, contents = [], []
        for name, datatype, shape, content in raw_tensors(sample):
            inputs.append(_described(name, datatype, shape) | {"parameters": {"binary_data_size": len(content)}})
            contents.append(content)
        header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Content-Type": _BINARY, "Inference-Header-Content-Length": str(len(header))}
        return self.post(f"{_v2_path(model.name, model.version)}/infer", headers, b"".join([header, *contents]))


class TensorFlowServingAsking(HttpAsking):
    """TensorFlow Serving's `:predict`."""

    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """See `Asking`."""
        if name is None:
            # TensorFlow Serving has no list of models; tfpipe's service has.
            reply = await self.ask("GET", "/health")
            models = json.loads(reply.body).get("models", []) if reply.ok else []
            name = choose([one["name"] for one in models], None, where=self.where)
        metadata = await self.document(f"{_v1_path(name, version)}/metadata")
        signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
        inputs = [
            (key, _TENSORFLOW.get(value["dtype"], value["dtype"]), _sizes(value["tensor_shape"]))
            for key, value in signature["inputs"].items()
        ]
        return v2_model(name, version, inputs, self.where)

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""
        content: dict[str, Any]
        if isinstance(sample, bytes):
            content = {"instances": [{"b64": base64.b64encode(sample).decode()}]}
        elif isinstance(sample, str):
            content = {"instances": [sample]}
        else:
            content = {"inputs": {name: array.tolist() for name, array in sample.items()}}
        return self.post(f"{_v1_path(model.name, model.version)}:predict", _JSON, json.dumps(content).encode())


def v2_model(name: str, version: str | None, inputs: list[tuple[str, str, list[int]]], where: str) -> AskedModel:
    """A model of the names, datatypes and shapes of its inputs."""
    takes = takes_of_inputs(tuple((one, datatype) for one, datatype, _ in inputs))
    tensors: tuple[TensorSpec, ...] = ()
    if takes == "tensors":
        tensors = tuple(spec(one, datatype, list(map(int, shape)), where=where) for one, datatype, shape in inputs)
    return AskedModel(name, version, takes, tensors)


def raw_tensors(sample: Sample) -> list[tuple[str, str, list[int], bytes]]:
    """Name, datatype, shape and raw content of each input; a string has its length before it.

    Raises:
        ConfigError: An array of a type that the protocol lacks.
    """
    if isinstance(sample, bytes):
        return [("image", "BYTES", [1], _with_length(sample))]
    if isinstance(sample, str):
        return [("text", "BYTES", [1], _with_length(sample.encode()))]
    return [(name, datatype_of(array), list(array.shape), _little_endian(array)) for name, array in sample.items()]


def _with_length(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _little_endian(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _sizes(shape: Mapping[str, Any]) -> list[int]:
    return [int(one["size"]) for one in shape.get("dim", [])]


def _v2_path(name: str, version: str | None) -> str:
    return f"/v2/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _v1_path(name: str, version: str | None) -> str:
    return f"/v1/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
