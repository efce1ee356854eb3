"""Bodies of requests that FastAPI routes: small JSON objects."""

from typing import Any

from fastapi import Request as HttpRequest

from serving.bodies import read_body
from serving.request import Request
from serving.routes.inputs import json_object
from serving.settings import ServingSettings

_MAX_BYTES = 2**20


async def read_json(
    http_request: HttpRequest, settings: ServingSettings, *, may_be_empty: bool = False
) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        InvalidRequestError: It is something else.
        TooLargeError: More than a mebibyte.
        BodyTimeoutError: It came too slowly.
    """
    request: Request = http_request.state.request
    timeout_s = settings.body_timeout_ms / 1000
    body = await read_body(request.headers, http_request.receive, max_bytes=_MAX_BYTES, timeout_s=timeout_s)
    return {} if may_be_empty and not body.strip() else json_object(body)
