"""Requests of every kind to the bundle of colours, those that are answered and those that are refused."""

from collections.abc import Sequence
from typing import Any

import httpx
from hypothesis import strategies as st

from tests.serving.bundles import BLUE, GREEN, RED

VALID = (
    {"url": "/predict", "content": RED},
    {"url": "/predict", "files": {"file": GREEN}},
    {"url": "/predict?timeout_ms=20000&model_name=colours", "content": BLUE},
    {"url": "/predict/batch", "files": [("files", RED), ("files", BLUE)]},
)
# With the code of the error that each meets.
INVALID = (
    ({"url": "/predict", "content": b"junk"}, "undecodable_image"),
    ({"url": "/predict", "content": b""}, "undecodable_image"),
    ({"url": "/predict", "content": RED[:40]}, "undecodable_image"),
    ({"url": "/predict", "json": {"text": "a"}}, "invalid_request"),
    ({"url": "/predict", "files": {"other": RED}}, "invalid_request"),
    ({"url": "/predict?timeout_ms=soon", "content": RED}, "invalid_request"),
    ({"url": "/predict?unknown=1", "content": RED}, "invalid_request"),
    ({"url": "/predict", "content": RED, "headers": {"x-request-id": "a b"}}, "invalid_request"),
    ({"url": "/predict?model_name=other", "content": RED}, "unknown_model"),
    ({"url": "/predict?model_version=99", "content": RED}, "unknown_model"),
    ({"url": "/predict?alias=nobody", "content": RED}, "unknown_model"),
    ({"url": "/predict/one", "content": RED}, "unknown_path"),
    ({"url": "/predict", "method": "PUT", "content": RED}, "method_not_allowed"),
    ({"url": "/predict", "content": bytes(1_000_001)}, "too_large"),
    ({"url": "/predict", "content": RED, "headers": {"content-encoding": "br"}}, "unsupported_media_type"),
    ({"url": "/predict?timeout_ms=0.000001", "content": RED}, "deadline_exceeded"),
)

mixes = st.lists(st.sampled_from([*((one, None) for one in VALID), *INVALID]), min_size=1, max_size=6)
errors = st.lists(st.sampled_from(INVALID), min_size=1, max_size=6)


def ask(client: httpx.Client, requests: Sequence[tuple[dict[str, Any], str | None]]) -> list[httpx.Response]:
    """Send them one after the other."""
    return [client.request(**{"method": "POST", **request}) for request, _ in requests]
