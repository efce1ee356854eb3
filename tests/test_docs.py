"""The documentation names what is there."""

import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tfpipe.config import documented_keys

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "horovod" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
KEYS = set(re.findall(r"^  ([\w.]+):", documented_keys(), re.MULTILINE))
SECTIONS = sorted({key.partition(".")[0] for key in KEYS if "." in key})


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def links(page):
    return re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())


def examples(page):
    """(module, names imported from it) of Python blocks."""
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        yield from re.findall(r"^from (tfpipe[\w.]*) import (.+)$", block, re.MULTILINE)


@pytest.mark.parametrize("found", [links, examples])
def test_links_and_examples_are_found(found):
    assert sum(len(list(found(page))) for page in PAGES) > 10


def test_links_lead_somewhere(page):
    for target in links(page):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_leads_to_every_page():
    linked = set(links(ROOT / "README.md"))

    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} - linked == set()


def test_the_readme_names_every_command_and_extra():
    text = (ROOT / "README.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    (named,) = re.findall(r"`tfpipe ([a-z-]+(?:\|[a-z-]+)+)`", text)
    assert sorted(named.split("|")) == sorted(commands())
    assert [extra for extra in extras if not re.search(rf"^\|[^|]*`{extra}`", text, re.MULTILINE)] == []


def test_commands_are_there(page):
    # Indented blocks hold what is typed.
    typed = re.findall(r"^    (?:\S+=\S+ )*tfpipe ([a-z-]+)", page.read_text(), re.MULTILINE)

    assert set(typed) <= set(commands())


@functools.cache
def commands():
    """The sub-commands of `tfpipe`, from its help."""
    shown = subprocess.run([sys.executable, "-m", "tfpipe.cli", "--help"], capture_output=True, text=True, check=True)
    return re.findall(r"^  ([a-z-]+) ", shown.stdout, re.MULTILINE)


def test_configuration_keys_exist(page):
    # Overrides as typed, and keys in code marks; files have names of the same form.
    sections = "|".join(SECTIONS)
    named = re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_.]+)=", page.read_text())
    named += re.findall(rf"`((?:{sections})\.(?!keras|json|py|fit|onnx)[a-z_]+(?:\.[a-z_]+)?)`", page.read_text())

    assert {name for name in named if not any(f"{key}.".startswith(f"{name}.") for key in KEYS)} == set()


@pytest.mark.tensorflow
def test_imports_in_examples_work(page):
    for module, names in examples(page):
        imported = importlib.import_module(module)
        for name in names.split(","):
            assert hasattr(imported, name.strip()), f"{module}.{name.strip()}"
