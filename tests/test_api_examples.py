"""docs/api.md, from its first command to its last, against one service."""

import json
import re

import pytest

from tests.doc_commands import ROOT, free_ports, run_as_typed
from tests.serving.bundles import RED, make_bundle
from tests.serving.made_bundles import tokenizer  # noqa: F401 (a fixture)
from tests.serving.text_bundles import make_text_bundle

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
# Triton's client wants another NumPy than the other tests.
TRITON = ROOT / ".venvs" / "triton" / "bin" / "python"


@pytest.fixture(scope="module")
def said(tokenizer, tmp_path_factory):  # noqa: F811
    """What became of the page's commands: status, output, and the service's OpenAPI document."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "bundles").mkdir()
    make_bundle(folder / "bundles" / "photos-1", name="photos", version="1")
    changes = {"model_name": "letters", "model_version": "1"}
    make_text_bundle(folder / "bundles" / "letters-1", tokenizer, manifest_changes=changes)
    (folder / "seven.png").write_bytes(RED)
    http, grpc = free_ports(2)

    typed = program().replace(":8000", f":{http}").replace("8001", grpc)
    done = run_as_typed(typed, folder, TFPIPE_SERVING_PORT=http, HOME=str(folder))
    return done.returncode, done.stdout + done.stderr, folder / "openapi.json"


def program():
    """The page's blocks in order, those of Python run by a Python that has what they import."""
    written = []
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        if language == "bash":
            written.append(block)
        elif "tritonclient" not in block:
            written.append(f"python - <<'PYTHON'\n{block}PYTHON")
        elif TRITON.exists():
            written.append(f"{TRITON} - <<'PYTHON'\n{block}PYTHON")
    return "\n".join(written)


def test_every_example_runs(said):
    status, output, _ = said

    assert status == 0, output


def test_every_path_of_the_service_has_an_example(said):
    *_, document = said
    paths = json.loads(document.read_text())["paths"]

    assert [path for path in paths if not re.search(as_pattern(path), PAGE)] == []


def as_pattern(path):
    """A path as examples write it, with or without the version or label that it may name."""
    model, _, rest = re.sub(r"/(?:versions|labels)/{\w+}", "", path).partition("/{")
    named = rf"/\w+(?:/versions/\w+)?{rest.partition('}')[2]}" if rest else ""
    return f":8000{model}{named}" + r"(?![\w/])"
