"""HTTP/1.1 by hand on asyncio's streams: a client that takes little of the core that the service needs."""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

_BOUNDARY = "----plain"


@dataclass(frozen=True)
class Request:
    """A POST.

    Attributes:
        path: Of the service.
        content_type: Of the body.
        body: Bytes.
    """

    path: str
    content_type: str
    body: bytes

    @classmethod
    def of_file(cls, content: bytes) -> "Request":
        """One file as the body."""
        return cls("/predict", "application/octet-stream", content)

    @classmethod
    def of_form(cls, contents: Sequence[bytes], path: str) -> "Request":
        """Files in a form."""
        name = "file" if path == "/predict" else "files"
        head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
        parts = b"".join(head + content + b"\r\n" for content in contents)
        return cls(path, f"multipart/form-data; boundary={_BOUNDARY}", parts + f"--{_BOUNDARY}--\r\n".encode())

    def encoded(self) -> bytes:
        """Head and body."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {self.content_type}\r\n"
            f"content-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


class Connection:
    """One connection, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator["Connection"]:
        """Open one, and close it at the end of the block."""
        parts = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, request: Request) -> int:
        """Status code of the answer, once all of it is here."""
        self._writer.write(request.encoded())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        return int(head.split(b" ", 2)[1])
