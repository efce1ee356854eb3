"""The inputs of a request: what its body is by path and media type, and what the model takes."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header

from serving.bodies import Part, media_type, read_parts
from serving.engine import Engine, Input
from serving.errors import InvalidRequestError, MediaTypeError, TooLargeError
from serving.parameters import ROUTING_KEY, key_of_body
from serving.request import Request

# Most inputs of one /predict/batch: more than one run of the model takes, so that clients need not know its limit;
# not so many that one request keeps a thread from all others for long.
MAX_INPUTS = 256
# The form field of each path, and the key of its JSON.
FORM_FIELDS = {"/predict": "file", "/predict/batch": "files"}
JSON_KEYS = {"/predict": "text", "/predict/batch": "texts"}
_MULTIPART, _JSON = "multipart/form-data", "application/json"
# What curl says where it is told nothing, and then the model would be asked about braces and quotes.
_FORM = "application/x-www-form-urlencoded"
_UTF8 = ("", "utf-8", "utf8", "us-ascii", "ascii")
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", type(None): "null", bool: "true or false"}


def check_media(engine: Engine, request: Request) -> None:
    """Refuse a body by its headers, before any of it is read.

    Raises:
        InvalidRequestError: An image for a model of texts, or a text for one of images.
        MediaTypeError: A content type or encoding that the path does not take.
    """
    media = media_type(request.headers)
    if engine.takes == "text" and media.startswith("image/"):
        raise InvalidRequestError(
            f"Content-Type: model {engine.name!r} takes texts, expected {_JSON} with the key "
            f"{JSON_KEYS[request.path]!r}; received {media}.",
            received=media,
        )
    if engine.takes == "image" and media == _JSON:
        raise InvalidRequestError(
            f"Content-Type: model {engine.name!r} takes images, expected {_MULTIPART} with the field "
            f"{FORM_FIELDS[request.path]!r}; received {media}.",
            received=media,
        )
    if request.path == "/predict/batch" and media not in (_MULTIPART, _JSON):
        expected = (
            f"{_JSON} with the key 'texts'"
            if engine.takes == "text"
            else f"{_MULTIPART} with the images in fields 'files'"
        )
        raise MediaTypeError(
            f"Content-Type: expected {expected}, received {media or 'none'!r}. "
            f"/predict takes one {engine.takes} as the body.",
            received=media,
        )
    _check_encodings(request.headers, is_text=engine.takes == "text")


@dataclass(slots=True)
class Posted:
    """What a body says.

    Attributes:
        inputs: At least one; of an array of texts, what is no string is an error in its place.
        routing_key: See `serving.parameters`; None for none.
    """

    inputs: list[Input]
    routing_key: str | None = None


def read_posted(engine: Engine, request: Request, body: bytes) -> Posted:
    """What a body says to a model of images or texts.

    Raises:
        InvalidRequestError: A malformed form or JSON, or another key or field than expected.
        TooLargeError: Too many inputs.
    """
    media = media_type(request.headers)
    if media == _MULTIPART:
        return _files(request, body)
    if media == _JSON:
        # A model of images has refused it.
        return _texts(request, body)
    if engine.takes == "text" and media == _FORM and _is_our_json(body):
        raise InvalidRequestError(
            f"Content-Type: expected {_JSON} for a body that is JSON, received {media}. "
            f"Add -H 'Content-Type: {_JSON}'.",
            received=media,
        )
    return Posted([body])


def _check_encodings(headers: Mapping[bytes, bytes], *, is_text: bool) -> None:
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding != "identity":
        raise MediaTypeError(f"Content-Encoding: expected none, received {encoding!r}.", received=encoding)
    options = parse_options_header(headers.get(b"content-type", b"").decode("latin-1"))[1]
    charset = options.get(b"charset", b"").decode("latin-1").lower()
    if is_text and charset not in _UTF8:
        raise MediaTypeError(f"Content-Type: expected charset UTF-8, received {charset!r}.", received=charset)


def _files(request: Request, body: bytes) -> Posted:
    field = FORM_FIELDS[request.path]
    given = read_parts(request.headers[b"content-type"], body, max_parts=MAX_INPUTS)
    parts = [part for part in given if part.name != ROUTING_KEY]
    for part in parts:
        if part.name != field:
            raise InvalidRequestError(
                f"body: expected files in the field {field!r}, received the field {part.name!r}.",
                field=field,
                received=part.name,
            )
    if field == "file" and len(parts) != 1:
        raise InvalidRequestError(
            f"body: expected one file in the field 'file', received {len(parts)}. /predict/batch takes several.",
            field=field,
            received=len(parts),
        )
    if not parts:
        raise InvalidRequestError("body: expected files in the field 'files', received none.", field=field, received=0)
    return Posted([part.content for part in parts], _key([part for part in given if part.name == ROUTING_KEY]))


def _key(parts: Sequence[Part]) -> str | None:
    if len(parts) > 1:
        raise InvalidRequestError(
            f"body: expected the field {ROUTING_KEY!r} once, received it {len(parts)} times.", field=ROUTING_KEY
        )
    try:
        return parts[0].content.decode() if parts else None
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{ROUTING_KEY}: expected UTF-8; byte {error.start} is not.", field=ROUTING_KEY
        ) from error


def _texts(request: Request, body: bytes) -> Posted:
    values = json_object(body)
    routing_key = key_of_body(values.pop(ROUTING_KEY, None), ROUTING_KEY)
    return Posted(_inputs(values, request), routing_key)


def _inputs(values: Mapping[str, Any], request: Request) -> list[Input]:
    key = JSON_KEYS[request.path]
    value = _value(values, key, request.path)
    if key == "text":
        given = _text(value, where="text")
        if isinstance(given, InvalidRequestError):
            raise given
        return [given]
    if not isinstance(value, list):
        raise InvalidRequestError(f"texts: expected an array of strings, received {_name(value)}.", field=key)
    if not value:
        raise InvalidRequestError("texts: expected one text or more, received an empty array.", field=key, received=0)
    if len(value) > MAX_INPUTS:
        raise TooLargeError(f"texts: expected at most {MAX_INPUTS} texts, received {len(value)}.", max_texts=MAX_INPUTS)
    return [_text(text, where=f"texts[{index}]") for index, text in enumerate(value)]


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        InvalidRequestError: It is something else.
    """
    try:
        # Not from bytes, which it takes for UTF-16 where they look so, and surrogates with it.
        values = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"body: expected JSON in UTF-8; byte {error.start} is not.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"body: expected JSON; {error}.") from error
    if not isinstance(values, dict):
        raise InvalidRequestError(f"body: expected a JSON object, received {_name(values)}.")
    return values


def _is_our_json(body: bytes) -> bool:
    try:
        return body.lstrip().startswith(b"{") and not json_object(body).keys().isdisjoint(JSON_KEYS.values())
    except InvalidRequestError:
        return False


def _value(values: Mapping[str, Any], key: str, path: str) -> Any:
    for name in values:
        if name != key:
            other = next((other for other, its in JSON_KEYS.items() if its == name and other != path), None)
            close = difflib.get_close_matches(name, [key], n=1)
            hint = (
                f"{other} takes it."
                if other
                else f"Did you mean {key!r}?"
                if close
                else f"Known: {key}, {ROUTING_KEY}."
            )
            raise InvalidRequestError(f"body: unknown key {name!r}. {hint}", field=name)
    if key not in values:
        raise InvalidRequestError(f"body: expected the key {key!r}, received none.", field=key)
    return values[key]


def _text(value: Any, *, where: str) -> str | InvalidRequestError:
    if isinstance(value, str):
        return value
    return InvalidRequestError(f"{where}: expected a string, received {_name(value)}.", field=where)


def _name(value: Any) -> str:
    return _JSON_NAMES.get(type(value), "a number")
