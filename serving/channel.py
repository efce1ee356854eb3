"""What the service and the child process of a model say to each other, and the memory that they share."""

import contextlib
import fcntl
import json
import math
import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.core.errors import InferenceError
from tfpipe.core.signature import Array

Message = dict[str, Any]
Described = dict[str, Any]

_LENGTH = struct.Struct("<I")
# What ONNX Runtime and NumPy compute on fastest: a line of the processor's cache.
_ALIGNMENT = 64
_SMALLEST_BYTES = 1 << 20
# What a memory keeps between messages: one that was large once does not stay so.
_KEPT_BYTES = 64 << 20


class Channel:
    """Short messages in both directions, as JSON; one thread may send while another receives.

    Args:
        connection: A connected stream socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            OSError: The other side is gone.
        """
        content = json.dumps(message).encode()
        self._connection.settimeout(None)
        self._connection.sendall(_LENGTH.pack(len(content)) + content)

    def receive(self, timeout_s: float | None = None) -> Message:
        """The next message.

        Args:
            timeout_s: How long to wait; None: for ever.

        Raises:
            TimeoutError: It did not come.
            ConnectionResetError: The other side is gone, and has not read all that was sent to it.
            EOFError: The other side is gone.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size, until_s))
        message: Message = json.loads(self._take(length, until_s))
        return message

    def close(self) -> None:
        """End the connection, also for a thread that waits in `receive`."""
        # The other side may have been faster.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _take(self, size: int, until_s: float | None) -> bytes:
        while len(self._buffer) < size:
            left_s = None if until_s is None else until_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            # Linux resets a socket whose other side is closed with data unread (unix_release_sock); other systems say
            # that all was read.
            received = self._connection.recv(65536)
            if not received:
                raise EOFError
            self._buffer += received
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class TensorMemory:
    """Memory in which one process writes the tensors of a message and another reads them.

    It has no name: it is a file that only the two processes hold, so it is gone with them, however they end, and
    a container's small /dev/shm does not bound it.

    Args:
        file: Descriptor; the other process inherits it.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._map: mmap.mmap | None = None
        self._used = 0

    @classmethod
    def create(cls) -> "TensorMemory":
        """A new memory, which grows as it is written.

        Raises:
            OSError: The system gives no file.
        """
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("tfpipe-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            # A child gone mad could else take pages away that the service is about to read, which would kill it.
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        else:
            with tempfile.TemporaryFile() as unnamed:
                file = os.dup(unnamed.fileno())
        os.ftruncate(file, _SMALLEST_BYTES)
        return cls(file)

    def write(self, tensors: Mapping[str, Array]) -> list[Described]:
        """Copy tensors in, over those of the message before.

        Returns:
            What `read` needs to find them.

        Raises:
            InferenceError: A tensor of Python objects.
            OSError: There is not enough memory.
        """
        described: list[Described] = []
        end = 0
        for name, tensor in tensors.items():
            if tensor.dtype.hasobject:
                raise InferenceError(
                    f"tensor {name!r}: expected numbers, received {tensor.dtype}, which no other process can read."
                )
            described.append({"name": name, "dtype": tensor.dtype.str, "shape": list(tensor.shape), "at": end})
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        room = self._mapped(end, grow=True)
        for place, tensor in zip(described, tensors.values(), strict=True):
            np.copyto(_view(room, place), tensor)
        return described

    def read(self, described: Sequence[Described]) -> dict[str, Array]:
        """The tensors of a message, without a copy: they change with the next one.

        Args:
            described: What `write` gave in the other process.
        """
        room = self._mapped(max((_end(place) for place in described), default=0))
        return {place["name"]: _view(room, place) for place in described}

    def trim(self) -> None:
        """Give back what an unusually large message took; its tensors are lost."""
        if self._used > _KEPT_BYTES and self._map is not None and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, _KEPT_BYTES, len(self._map) - _KEPT_BYTES)

    def close(self) -> None:
        """Let go of it; arrays that were read stay as they are."""
        # Not the map's own close, which fails while an array looks into it.
        self._map = None
        os.close(self.file)

    def _mapped(self, size: int, *, grow: bool = False) -> mmap.mmap:
        self._used = size
        if self._map is None or len(self._map) < size:
            if grow:
                # Pages that nobody writes take no memory, so that the next power of two costs nothing.
                os.ftruncate(self.file, max(_SMALLEST_BYTES, 1 << max(size - 1, 0).bit_length()))
            self._map = mmap.mmap(self.file, os.fstat(self.file).st_size)
        return self._map


def _view(room: mmap.mmap, place: Described) -> Array:
    dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.frombuffer(room, dtype, math.prod(shape), place["at"]).reshape(shape)


def _end(place: Described) -> int:
    return int(place["at"] + np.dtype(place["dtype"]).itemsize * math.prod(place["shape"]))
