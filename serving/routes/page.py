"""The page at `/`: a few static files, read once and answered from memory."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

PAGE = "index.html"
_FOLDER = Path(__file__).parents[1] / "static"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Nothing from elsewhere and nothing inline; `blob:` is the preview of an image that was dropped.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Kept, but asked about each time: files of two versions of the service never meet.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class StaticFile:
    """One file of the page.

    Attributes:
        content: All of it.
        media_type: "text/html", ...
        etag: Quoted, of its content.
    """

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "StaticFile":
        """A file, with the tag of its content."""
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')

    def answer(self, request: Request, *, vary: str | None = None) -> Response:
        """The file, or 304 where the client has it.

        Args:
            request: Its If-None-Match says what the client has.
            vary: Request headers that the choice of this answer hung on.
        """
        headers = _HEADERS | {"etag": self.etag} | ({"vary": vary} if vary else {})
        held = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if self.etag in held:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def read_files() -> Mapping[str, StaticFile]:
    """Every file of the page, by its name."""
    return {
        path.name: StaticFile.of(path.read_bytes(), _MEDIA_TYPES[path.suffix]) for path in sorted(_FOLDER.iterdir())
    }


def static_files(files: Mapping[str, StaticFile]) -> APIRouter:
    """Routes `/static/...` of what the page loads; not of the page, whose links are relative to `/`."""
    router = APIRouter(include_in_schema=False)

    def route(name: str, file: StaticFile) -> None:
        async def answer(request: Request) -> Response:
            return file.answer(request)

        router.get(f"/static/{name}")(answer)

    for name, file in files.items():
        if name != PAGE:
            route(name, file)
    return router
