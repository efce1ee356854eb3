"""Commands as the documentation has them."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "horovod" / "README.md",
    ROOT / "benchmarks" / "README.md",
]

# A tutorial takes a minute of two cores.
LIMIT_S = 540

# What a shell reads as something else than the command's words.
_ENDS = re.compile(r";.*|\s(?:#|\||&&|2?>|<<).*|\s&$", re.DOTALL)
# Behind variables, a launcher or a path; not where `tfpipe` is an argument of something else.
_OURS = re.compile(r"\bpython3? -m ((?:tfpipe|serving)\b.*)|(?:^(?:\w+=\S+ )*|/|\$\()(tfpipe [a-z].*)")


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of one language, in order."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def script(page: Path) -> str:
    """All `bash` blocks of a page as one program."""
    return "\n".join(blocks(page.read_text(encoding="utf-8"), "bash"))


def own_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours that a page has, from `tfpipe`, or from the module after `python -m`, on.

    Typed is what stands in `bash` blocks, and what is indented by four spaces.
    """
    text = page.read_text(encoding="utf-8")
    unfenced = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    (?! )((?:.*\\\n)*.*)", unfenced, re.MULTILINE)
    for block in blocks(text, "bash"):
        lines += re.findall(r"^((?:.*\\\n)*.+)", block, re.MULTILINE)
    for line in lines:
        found = _OURS.search(line.replace("\\\n", " "))
        if found:
            yield words(found[1] or found[2])


def words(typed: str) -> list[str]:
    """A command's words, without comments, pipes and the closing bracket of `$(...)`."""
    return shlex.split(_ENDS.sub("", typed).removesuffix(")"))


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
