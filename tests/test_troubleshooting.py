"""docs/troubleshooting.md quotes what the programs say."""

import ast
import functools

import pytest

from tests.doc_commands import ROOT, blocks

QUOTED = [
    " ".join(block.split())
    for block in blocks((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), "text")
]


def test_messages_are_found():
    assert len(QUOTED) > 40


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_program(message):
    parts = message.strip("…").split("…")

    assert any(in_this_order(parts, literal) for literal in literals())


def in_this_order(parts, text):
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


@functools.cache
def literals():
    """Every text of the sources, with a mark where an f-string has a value."""
    found = set()
    for package in ("tfpipe", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.add("".join(one.value if isinstance(one, ast.Constant) else "…" for one in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found
