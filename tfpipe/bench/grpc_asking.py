"""The Open Inference Protocol over gRPC, its few messages written and read by hand: no generated code, no protobuf.

Sources: Open Inference Protocol, open_inference_grpc.proto (field numbers); Protocol Buffers, "Encoding".
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import SplitResult

import grpc
import grpc.aio

from tfpipe.bench.asking import AskedModel, Sample, choose
from tfpipe.bench.channel import TIMEOUT, UNREACHABLE, Channel, Reply
from tfpipe.bench.http_asking import raw_tensors, v2_model
from tfpipe.core.errors import ConfigError

_SERVICE = "/inference.GRPCInferenceService/"
_VARINT, _BYTES = 0, 2
# Each caller has a connection of its own, as with HTTP; answers of any size are read.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


class GrpcAsking:
    """See `Asking`."""

    def __init__(self, url: SplitResult, headers: Mapping[str, str], *, timeout_s: float) -> None:
        """Connect to nothing yet.

        Args:
            url: Host and port; its scheme is https for TLS.
            headers: Sent with every request, as metadata.
            timeout_s: Longest time for an answer.
        """
        self.url, self._timeout_s = url, timeout_s
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())

    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """See `Asking`."""
        if name is None:
            answer = await self._ask("RepositoryIndex", b"")
            models = [_text(fields(content)[1]) for content in fields(answer).get(1, [])]
            name = choose(models, None, where=self.url.geturl())
        answer = await self._ask("ModelMetadata", _named(name, version))
        inputs = [
            (_text(one[1]), _text(one[2]), _integers(one.get(3, [])))
            for one in (fields(content) for content in fields(answer).get(4, []))
        ]
        return v2_model(name, version, inputs, self.url.geturl())

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """See `Asking`."""
        request = _named(model.name, model.version)
        tensors = raw_tensors(sample)
        for name, datatype, shape, _ in tensors:
            packed = b"".join(_varint(length) for length in shape)
            described = _field(1, name.encode()) + _field(2, datatype.encode()) + _field(3, packed)
            request += _field(5, described)
        return request + b"".join(_field(7, content) for _, _, _, content in tensors)

    def open_channel(self) -> Channel:
        """See `Asking`."""
        return GrpcChannel(self.url, self._metadata, timeout_s=self._timeout_s)

    async def _ask(self, method: str, request: bytes) -> bytes:
        channel = GrpcChannel(self.url, self._metadata, timeout_s=self._timeout_s, method=method)
        try:
            reply = await channel.exchange(request)
        finally:
            channel.close()
        if not reply.ok:
            raise ConfigError(
                f"{self.url.geturl()}: expected {method} to be answered over gRPC, received {reply.outcome}. "
                f"{reply.excerpt()}"
            )
        return reply.body


class GrpcChannel:
    """See `Channel`."""

    def __init__(
        self,
        url: SplitResult,
        metadata: tuple[tuple[str, str], ...],
        *,
        timeout_s: float,
        method: str = "ModelInfer",
    ) -> None:
        """Connect to nothing yet; see `GrpcAsking`."""
        self._url, self._metadata, self._timeout_s, self._method = url, metadata, timeout_s, method
        self._channel: grpc.aio.Channel | None = None
        self._closing: asyncio.Task[None] | None = None

    async def exchange(self, request: bytes) -> Reply:
        """See `Channel`."""
        if self._channel is None:
            self._channel = self._connect()
            # Bytes in and out: grpc has nothing to encode.
            self._call = self._channel.unary_unary(_SERVICE + self._method)
        try:
            body = await self._call(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), (error.details() or "").encode()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Reply(TIMEOUT, ok=False, body=details)
            if code is grpc.StatusCode.UNAVAILABLE and b"connect" in details:
                return Reply(UNREACHABLE, ok=False, body=details)
            return Reply(code.name, ok=False, body=details)
        return Reply("OK", ok=True, body=body)

    def close(self) -> None:
        """See `Channel`."""
        if self._channel is not None:
            self._closing = asyncio.ensure_future(self._channel.close())
            self._channel = None

    def _connect(self) -> grpc.aio.Channel:
        if self._url.scheme == "https":
            return grpc.aio.secure_channel(self._url.netloc, grpc.ssl_channel_credentials(), options=_OPTIONS)
        return grpc.aio.insecure_channel(self._url.netloc, options=_OPTIONS)


def fields(message: bytes) -> dict[int, list[bytes]]:
    """The fields of a message that hold bytes, by number, and varints as their bytes; others are left out."""
    found: dict[int, list[bytes]] = {}
    for number, content in _walk(message):
        found.setdefault(number, []).append(content)
    return found


def _walk(message: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        if tag & 7 == _VARINT:
            start = place
            _, place = _read_varint(message, place)
            yield tag >> 3, message[start:place]
        elif tag & 7 == _BYTES:
            length, place = _read_varint(message, place)
            yield tag >> 3, message[place : place + length]
            place += length
        else:
            place += 8 if tag & 7 == 1 else 4


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _integers(contents: Sequence[bytes]) -> list[int]:
    """int64, packed or one by one."""
    values = []
    for content in contents:
        place = 0
        while place < len(content):
            value, place = _read_varint(content, place)
            values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _text(contents: Sequence[bytes]) -> str:
    return contents[-1].decode()


def _named(name: str, version: str | None) -> bytes:
    return _field(1, name.encode()) + (_field(2, version.encode()) if version else b"")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    coded = bytearray()
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)
