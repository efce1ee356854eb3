"""Says which of the named files should not be committed as they are. A hook of .pre-commit-config.yaml."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 500_000
# In two parts, or this file would be found.
_CONFLICT = ("<" * 7 + " ", ">" * 7 + " ")
_KEY = re.compile(r"-----BEGIN (\w+ )?PRIVATE KEY-----")


class _Loader(yaml.SafeLoader):
    """Takes tags such as CloudFormation's as they come."""


_Loader.add_multi_constructor("!", lambda *_: None)


def main(names: Sequence[str]) -> int:
    """Check files by name; gives the exit code: 0, or 1 where one has a problem."""
    problems = [f"{name}: {problem}" for name in names for problem in problems_of(Path(name))]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def problems_of(path: Path) -> Iterator[str]:
    """What is wrong with one file, a sentence each."""
    content = path.read_bytes()
    if len(content) > MAX_BYTES:
        yield f"expected at most {MAX_BYTES} bytes, received {len(content)}; large files have no place here."
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    if text and not text.endswith("\n"):
        yield "expected a newline at the end."
    if "\r\n" in text:
        yield "expected lines that end in a newline alone, received carriage returns."
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_CONFLICT):
            yield f"line {number}: expected no trace of a merge, received {line[:20]!r}."
        if _KEY.fullmatch(line):
            yield f"line {number}: expected no private key."
    yield from _syntax(path, text)


def _syntax(path: Path, text: str) -> Iterator[str]:
    readers: dict[str, Any] = {
        ".json": json.loads, ".toml": tomllib.loads, ".ipynb": json.loads,
        ".yaml": _read_yaml, ".yml": _read_yaml,
    }  # fmt: skip
    if path.suffix in readers:
        try:
            readers[path.suffix](text)
        except (ValueError, yaml.YAMLError) as error:
            yield f"expected {path.suffix[1:].upper()}: {' '.join(str(error).split())}"


def _read_yaml(text: str) -> list[Any]:
    return list(yaml.load_all(text, _Loader))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
