"""docs/api.md, from its first command to its last, against one service."""

import json
import re

import pytest

from tests.doc_commands import ROOT, TRITON, free_ports, program, python_of, run_as_typed, typed
from tests.serving.bundles import RED, make_bundle
from tests.serving.made_bundles import tokenizer  # noqa: F401 (a fixture)
from tests.serving.text_bundles import make_text_bundle

PAGE = ROOT / "docs" / "api.md"


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

    examples = [one for one in typed(PAGE) if TRITON.exists() or python_of(one) != str(TRITON)]
    written = program(examples).replace(":8000", f":{http}").replace("8001", grpc)
    done = run_as_typed(written, folder, TFPIPE_SERVING_PORT=http, HOME=str(folder))
    return done.returncode, done.stdout + done.stderr, folder / "openapi.json"


def test_every_example_runs(said):
    status, output, _ = said

    assert status == 0, output


def test_every_path_of_the_service_has_an_example(said):
    *_, document = said
    paths = json.loads(document.read_text())["paths"]

    text = PAGE.read_text(encoding="utf-8")
    assert [path for path in paths if not re.search(as_pattern(path), text)] == []


def as_pattern(path):
    """A path as examples write it, with or without the version or label that it may name."""
    model, _, rest = re.sub(r"/(?:versions|labels)/{\w+}", "", path).partition("/{")
    named = rf"/\w+(?:/versions/\w+)?{rest.partition('}')[2]}" if rest else ""
    return f":8000{model}{named}" + r"(?![\w/])"
