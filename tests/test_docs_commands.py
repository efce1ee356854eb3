"""Commands of the documentation are run as they are typed, or stand in a list that says why not."""

import functools
import re
import shutil
from pathlib import Path

import httpx
import pytest

from serving.keys import new_key
from tests.commands import ROOT
from tests.deploy.monitoring_files import SERVICE_SERIES, rules, series_in
from tests.doc_commands import PAGES, TRITON, Typed, free_ports, program, python_of, run_as_typed, typed
from tests.serving import servers
from tests.serving.bundles import BLUE, RED, make_bundle
from tests.serving.drifting import digits_statistics
from tests.serving.made_bundles import tokenizer  # noqa: F401 (a fixture)
from tests.serving.tensor_bundles import make_tensor_bundle
from tests.serving.text_bundles import make_text_bundle
from tests.stores import new_store
from tests.training.small_runs import write_class_folders
from tfpipe.registry import MODEL_FILES, Registry
from tfpipe.store import connect

# Pages that other tests run from their first command to their last.
RUN_BY_OTHERS = {
    "docs/api.md": "tests/test_api_examples.py",
    "docs/tutorial-images.md": "tests/test_tutorials.py",
    "docs/tutorial-texts.md": "tests/test_tutorials.py",
}
QUERY = r"\{|(sum|count) by |[\w:]+[({]|[\w:]+$"
# What is not run, by how it begins, and why. All else is.
NOT_RUN = {
    QUERY: "asked of Prometheus or Loki: its series are looked up below",
    r"docker |kubectl |helm |aws |cp deploy/": "a container engine, cluster or account; tests/deploy has the files",
    r"make |scripts/\w+_env\.sh|uv |pip |python3 -m venv|serve-env/|source ": "makes or enters an environment; "
    "tests/deploy/test_wheel.py installs into a new one",
    r"dvc |git |export PATH=|python examples/digits_as": "tests/test_data_versions.py does, in a repository of its own",
    r"(?:CONLL_FILE=\S+ |until |horovodrun .*)?python -m tfpipe\.(?:train|lr_find|convert)(?!.*--(?:print-config|help))"
    r"|horovodrun ": "TensorFlow for a minute; tests/test_end_to_end*.py, tests/training and tests/convert do",
    r"(?s).*\b(?:from tfpipe\.train import|from tfpipe\.convert)": "the same from Python",
    r"python -m tfpipe\.data train-tokenizer": "compares with keras-nlp under TensorFlow; tests/text does",
    r"tfpipe verify|python -m tfpipe\.verify": "asks TensorFlow too; tests/convert/test_verify.py does",
    r"tfpipe bench|tfpipe tune": "loads the machine for half a minute; tests/bench and tests/test_tune.py, for less",
    r"tfpipe doctor": "imports every library in a process of its own; tests/doctor does",
    r"tensorflow_model_server|tritonserver|mlflow models serve|.*--target tfserving": "another server, or what only "
    "TensorFlow writes; tests/targets has them",
    r"promtool |amtool ": "tests/deploy runs them where Debian's packages are",
    r"py-spy |nvidia-smi|df -h|ss ": "looks at a process, a device or connections that are not there",
    r".*(?:https://|http://a:8000|//alertmanager:)": "another host",
    r"cat OUTPUT_DIR|.*history --at|(?s:.*Bearer tfp_)": "something of the reader's own",
    r"python -m serving --model models:/messages-bert": "what was made before it; tests/convert/test_weight_only.py",
}
SETTINGS = """
data: {path: photos/train, validation_path: photos/val}
preprocessing: {image_size: [8, 8], normalization: none}
model: {name: mlp}
"""
# Starts what the page has somebody start in a terminal of its own; one at a time, as all listen on one port.
SERVE = """
serve() {
  [ -z "${serving-}" ] || { kill $serving; wait $serving || true; }
  env "$@" 2>> service.log & serving=$!
  curl --silent --retry 60 --retry-delay 1 --retry-all-errors "127.0.0.1:$TFPIPE_SERVING_PORT/health/ready" > ready.json
}
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def reasons(command: Typed) -> list[str]:
    """The patterns of what is not run that fit a command."""
    return [pattern for pattern in NOT_RUN if re.match(pattern, command.text)]


@functools.cache
def run_here(page: Path) -> list[Typed]:
    """What a page has somebody type and is run."""
    if name_of(page) in RUN_BY_OTHERS:
        return []
    return [command for command in typed(page) if not reasons(command)]


def pages_to_run() -> list[Path]:
    """Pages on which something is typed that no longer page has."""
    found, seen = [], set()
    for page in sorted(PAGES, key=lambda page: len(run_here(page)), reverse=True):
        commands = {command.text.partition(" #")[0].strip() for command in run_here(page)}
        if commands - seen:
            found.append(page)
        seen |= commands
    return found


def test_what_is_not_run_is_there():
    fitting = {pattern for page in PAGES for command in typed(page) for pattern in reasons(command)}

    assert fitting == NOT_RUN.keys()


def test_pages_that_others_run_are_run_by_them():
    for page, test in RUN_BY_OTHERS.items():
        assert (ROOT / page).exists()
        assert (ROOT / test).exists()


def test_queries_ask_for_series_that_there_are():
    commands = {command.text for page in PAGES for command in typed(page) if re.match(QUERY, command.text)}
    asked = set().union(*(series_in(command) for command in commands if not command.startswith("{")))

    known = SERVICE_SERIES | {rule["record"] for rule in rules("record")}
    assert {name for name in asked if name.startswith("tfpipe_") or ":" in name} <= known
    assert len(asked) > 15


@pytest.fixture(scope="module")
def place(tokenizer, tmp_path_factory):  # noqa: F811
    """A folder with what the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    uri = new_store(folder)
    client, registry = connect(uri), Registry(uri)
    experiment = client.create_experiment("digits", artifact_location=(folder / "mlruns").as_uri())
    trained = folder / "trained"
    trained.mkdir()
    for name in MODEL_FILES[:3]:
        (trained / name).write_text(name)
    metadata = {"created": "2026-01-01", "metrics": {"val_accuracy": 0.99}}
    for version in "1234":
        run_id = client.create_run(experiment).info.run_id
        registered = registry.register("digits", run_id=run_id, folder=trained, metadata=metadata)
        made = make_bundle(
            folder / "bundles" / f"digits-{version}",
            name="digits", version=version, features=True, statistics=digits_statistics(),
        )  # fmt: skip
        registry.attach_bundle(registered, made)
    changes = {"model_name": "messages", "model_version": "1"}
    make_text_bundle(folder / "bundles" / "messages-1", tokenizer, manifest_changes=changes)
    make_tensor_bundle(folder / "bundles" / "rain")
    tokenizer.save(folder / "tokenizer")
    write_files(folder)
    return folder


def write_files(folder: Path) -> None:
    """Data of each kind."""
    for name, content in {"seven.png": RED, "image.png": RED, "one.png": BLUE}.items():
        (folder / name).write_bytes(content)
    for name in ("letter.txt", "other.txt"):
        (folder / name).write_text("Thank you!\n")
    rows = [(f"{kind} number {count}", kind) for kind in ("glad", "sad") for count in range(30)]
    (folder / "reviews.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{kind}\n" for text, kind in rows))
    (folder / "stars.tsv").write_text("".join(f"{len(kind)}\t{text}\n" for text, kind in rows))
    (folder / "train.conll").write_text("Ada B-PER\nsleeps O\n\nLondon B-LOC\ntoo O\n\n" * 20)
    (folder / "run.yaml").write_text(SETTINGS)
    write_class_folders(folder / "photos" / "train", size=(40, 40))
    write_class_folders(folder / "photos" / "val", num_samples=8, size=(40, 40), seed=1)
    shutil.copytree(ROOT / "configs", folder / "configs")


@pytest.fixture(scope="module")
def addresses(place):
    """HOST:PORT of a service of version 3 that anybody may ask, and of one with keys."""
    bundle = str(place / "bundles" / "digits-3")
    key, digest = new_key()
    keys = place / "operator.yaml"
    keys.write_text(f"[{{name: operator, sha256: {digest}, scopes: [predict, admin]}}]")
    with (
        servers.process("--model", bundle) as plain,
        servers.process("--model", bundle, "--api-keys-file", str(keys)) as guarded,
    ):
        for one in (plain, guarded):
            servers.wait_for(lambda one=one: httpx.get(f"{one.url}/health/ready").status_code == 200)
        yield {"8000": plain.url.removeprefix("http://"), "REPLICA": guarded.url.removeprefix("http://"), "KEY": key}


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_to_run(), ids=name_of)
def test_what_is_typed_runs(page, place, addresses, tmp_path):
    folder = shutil.copytree(place, tmp_path / "place")
    commands = [one for one in run_here(page) if TRITON.exists() or python_of(one) != str(TRITON)]
    written = SERVE + re.sub(r"^((?:\w+=\S+ )*python -m serving)", r"serve \1", program(commands), flags=re.MULTILINE)
    http, grpc = free_ports(2)
    own = "\nserve " in written
    address = f"127.0.0.1:{http}" if own else addresses["8000"]
    written = re.sub(r"(?:127\.0\.0\.1|localhost):8000", address, written)
    written = re.sub(r"\bMODEL\b", "digits", written).replace("8001", grpc).replace("--port 9000", f"--port {http}")

    done = run_as_typed(
        written, folder, TFPIPE_SERVING_PORT=http, TFPIPE_SERVING_CACHE_DIR=str(folder / "cache"),
        REPLICA=addresses["REPLICA"], SERVICE=addresses["REPLICA"],
        KEY=addresses["KEY"], TFPIPE_ADMIN_KEY=addresses["KEY"],
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
