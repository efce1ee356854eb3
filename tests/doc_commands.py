"""Commands as the documentation has them."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "horovod" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
]

TRITON = ROOT / ".venvs" / "triton" / "bin" / "python"

# A tutorial takes a minute of two cores.
LIMIT_S = 540

# What a shell reads as something else than the command's words.
_ENDS = re.compile(r";.*|\s(?:#|\||&&|2?>|<<).*|\s&$", re.DOTALL)
# Behind variables, a launcher or a path; not where `tfpipe` is an argument of something else.
_OURS = re.compile(r"\bpython3? -m ((?:tfpipe|serving)\b.*)|(?:^(?:\w+=\S+ )*|/|\$\()(tfpipe [a-z].*)")
# A fenced block, or lines indented by four spaces after an empty one.
_PIECES = re.compile(r"^```([^\n]*)\n(.*?)^```$|(?<=\n\n)((?:^ {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Typed:
    """What a page has somebody type: a command of a shell with its further lines, or a block of Python."""

    language: str
    text: str


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of one language, in order."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def script(page: Path) -> str:
    """All `bash` blocks of a page as one program."""
    return "\n".join(blocks(page.read_text(encoding="utf-8"), "bash"))


def typed(page: Path) -> Iterator[Typed]:
    """What a page has somebody type, in order: `bash` and `python` blocks, and what is indented by four spaces."""
    for language, fenced, indented in _PIECES.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            yield Typed(language, fenced)
        elif indented or language == "bash":
            for command in _whole(fenced or textwrap.dedent(indented)):
                yield Typed("bash", command)


def _whole(lines: str) -> Iterator[str]:
    """Commands with the lines that belong to them: after a backslash, in open quotes, up to a heredoc's end."""
    held = ""
    for line in lines.splitlines(keepends=True):
        held += line
        heredoc = re.search(r"<<'(\w+)'\n", held)
        if held.endswith("\\\n") or (heredoc and not held.endswith(f"\n{heredoc[1]}\n")) or _is_open(held):
            continue
        if shlex.split(held if not heredoc else "heredoc", comments=True):
            yield held
        held = ""


def _is_open(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return "<<" not in command
    return False


def own_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours that a page has, from `tfpipe`, or from the module after `python -m`, on."""
    for command in typed(page):
        found = _OURS.search(command.text.rstrip().replace("\\\n", " ")) if command.language == "bash" else None
        if found:
            yield words(found[1] or found[2])


def words(command: str) -> list[str]:
    """A command's words, without comments, pipes and the closing bracket of `$(...)`."""
    return shlex.split(_ENDS.sub("", command).removesuffix(")"))


def program(commands: Iterable[Typed]) -> str:
    """What is typed as one program of a shell; each block of Python is run by a Python that has what it imports."""
    return "".join(
        one.text if one.language == "bash" else f"{python_of(one)} - <<'PYTHON'\n{one.text}PYTHON\n" for one in commands
    )


def python_of(block: Typed) -> str:
    """The Python for a block. Triton's client wants another NumPy than the other tests."""
    return str(TRITON) if "tritonclient" in block.text else "python"


def run_as_typed(typed: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a page's program in a folder, by the Python of the tests; it ends with the first command that fails.

    A request that is refused fails too. What still runs in the background ends with it.
    """
    (folder / ".curlrc").write_text('fail-with-body\nwrite-out = "\\n"\n')
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(("TFPIPE_", "MLFLOW_"))}
    ending = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
    return subprocess.run(
        # Unlike subprocess's own limit it ends what the shell has started too.
        ["timeout", "--kill-after=10", str(LIMIT_S), "bash", "-euo", "pipefail", "-c", ending + typed],
        cwd=folder,
        env={
            **inherited, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "CURL_HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def free_ports(count: int) -> list[str]:
    """Ports of 127.0.0.1 on which nothing listens."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]
