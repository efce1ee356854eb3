"""The documentation names what is there."""

import functools
import importlib
import re
import subprocess
import sys
import tomllib

import pytest

from tests.doc_commands import PAGES, ROOT, own_commands
from tfpipe.config import documented_keys

KEYS = set(re.findall(r"^  ([\w.]+):", documented_keys(), re.MULTILINE))
SECTIONS = sorted({key.partition(".")[0] for key in KEYS if "." in key})
# Commands whose first word says which of several they are.
WITH_VERBS = ("registry", "keys", "data", "monitor")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def links(page):
    return re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())


def examples(page):
    """(module, names imported from it) of Python blocks."""
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        yield from re.findall(r"^from (tfpipe[\w.]*) import (.+)$", block, re.MULTILINE)


@pytest.mark.parametrize("found", [links, examples, own_commands])
def test_what_is_looked_for_is_found(found):
    assert sum(len(list(found(page))) for page in PAGES) > 10


def test_links_lead_somewhere(page):
    for target in links(page):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_list_of_decisions_has_each():
    folder = ROOT / "docs" / "adr"

    assert set(links(folder / "README.md")) == {path.name for path in folder.glob("0*.md")}


def test_modules_that_the_architecture_names_are_there():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (walks,) = re.findall(r"^## Walks\n\n```text\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    named = [name for name in re.findall(r"`([\w*./]+)`", text) if "/" in name.rstrip("/") or name.endswith(".py")]
    named += re.findall(r"\w+/\w+", walks)

    missing = [name for name in named if not any(is_in(ROOT / place, name) for place in ("", "tfpipe", "serving"))]
    assert missing == []
    assert len(named) > 50


def is_in(folder, name):
    """Whether a folder has a file, a folder, or a module with what stands behind its point."""
    module, _, attribute = name.removesuffix(".py").partition(".")
    found = [*folder.glob(name), *folder.glob(f"{module}.py"), *folder.glob(f"*/{name}")]
    return any(not attribute or re.search(rf"^(?:class|def) {attribute}\b", path.read_text(), re.M) for path in found)


def test_the_readme_names_every_command_and_extra():
    text = (ROOT / "README.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    (named,) = re.findall(r"`tfpipe ([a-z-]+(?:\|[a-z-]+)+)`", text)
    assert sorted(named.split("|")) == sorted(commands())
    assert [extra for extra in extras if not re.search(rf"^\|[^|]*`{extra}`", text, re.MULTILINE)] == []


def test_options_of_commands_are_there(page):
    for command in own_commands(page):
        name, *rest = command[1:] if command[0] == "tfpipe" else [command_of(command[0]), *command[1:]]
        assert name in commands(), command
        verb = (rest[0],) if name in WITH_VERBS and rest and not rest[0].startswith("-") else ()
        named = [word.partition("=")[0] for word in rest if re.match(r"--\w", word)]
        shown = help_of(name, *verb)
        assert [option for option in named if not re.search(rf"{option}(?![\w-])", shown)] == [], command


def command_of(module):
    """The sub-command of `tfpipe` that is a module's: tfpipe.lr_find -> lr-find."""
    return "serve" if module == "serving" else module.removeprefix("tfpipe.").replace("_", "-")


@functools.cache
def help_of(*command):
    done = subprocess.run(
        [sys.executable, "-m", "tfpipe.cli", *command, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


@functools.cache
def commands():
    """The sub-commands of `tfpipe`, from its help."""
    return re.findall(r"^  ([a-z-]+) ", help_of(), re.MULTILINE)


def test_what_make_and_scripts_are_asked_for_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for name in re.findall(r"make bench NAME=([a-z_0-9]+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name
    # NAME stands for any.
    for path in re.findall(r"(?<![\w/.-])(?:scripts|horovod|examples|configs)/(?!NAME)[\w/]+\.(?:sh|py|yaml)\b", text):
        assert (ROOT / path).exists(), path


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
