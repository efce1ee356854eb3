"""Protocol Buffers' text format, as far as Triton's config.pbtxt needs it. Source: its language specification."""

from collections.abc import Iterator, Mapping
from typing import Any


class Name(str):
    """A value of an enumeration, which is written without quotes."""


def render(fields: Mapping[str, Any]) -> str:
    """A message as text.

    Args:
        fields: By name: a string, a `Name`, a bool, an int, a mapping (a message), or a list of those (a repeated
            field). An empty list is left out; an empty mapping is a message without fields.
    """
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, list) and value and not isinstance(value[0], Mapping):
            yield f"{name}: [ {', '.join(map(_scalar, value))} ]"
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def _scalar(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Name):
        return str(value)
    escaped = "".join(_ESCAPES.get(character, character) for character in value)
    return f'"{escaped}"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
