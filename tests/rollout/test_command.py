"""`tfpipe registry` on a real MLflow store."""

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.bundles import make_bundle
from tests.stores import new_store
from tfpipe.core.errors import RegistryError
from tfpipe.core.routing import initial
from tfpipe.ledger import MlflowLedger
from tfpipe.registry import REQUIRED_METADATA, Registry
from tfpipe.rollout.command import main
from tfpipe.store import connect

METADATA = {"created": "2026-01-01T00:00:00+00:00", "metrics": {"val_accuracy": 0.9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    new_store(folder)
    return folder


@pytest.fixture(scope="module")
def uri(folder):
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def trained(folder):
    trained = folder / "trained"
    trained.mkdir()
    for name in ("config.yaml", "model.keras", "model.json"):
        (trained / name).write_text(name)
    return trained


@pytest.fixture(scope="module")
def new_run(uri, folder):
    client = connect(uri)
    experiment = client.create_experiment("runs", artifact_location=(folder / "mlruns").as_uri())
    return lambda: client.create_run(experiment).info.run_id


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "colours")


@pytest.fixture
def model(uri, trained, new_run, bundle, request, monkeypatch):
    """A registered name of this test alone: versions 1, 2 and 3 with bundles, 4 without; 1 is champion."""
    name = "".join(letter for letter in request.node.name if letter.isalnum())[:60]
    registry = Registry(uri)
    for index in range(4):
        version = registry.register(name, run_id=new_run(), folder=trained, metadata=METADATA)
        if index < 3:
            registry.attach_bundle(version, bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("TFPIPE_REGISTERED_MODEL", name)
    return name


def run(capsys, *arguments):
    code = main([str(one) for one in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_model_without_a_ledger_is_its_champions(model, capsys):
    code, out, _ = run(capsys, "list")

    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == [model, "revision", "0"]
    assert lines[-1][:4] == ["1", "100", "%", "champion"]
    assert lines[2][:2] == ["4", "–"]
    assert "no bundle" in out.splitlines()[2]
    assert out.splitlines()[2].endswith("val_accuracy=0.9")
    assert run(capsys, "history")[1] == "no change was made\n"


def test_promote_split_rollback_and_what_held_when(model, capsys, uri):
    assert run(capsys, "promote", 2, "--why", "it is better")[0] == 0
    code, out, _ = run(capsys, "split", "2=90%", "3=0.1", "--fallback", "1", "--why", "try it")
    assert (code, out.splitlines()[0]) == (0, "revision 2: split 90 % 2, 10 % 3; fallback 1")
    between = MlflowLedger(uri).newest(model).when
    time.sleep(0.002)  # so that the next is later by a millisecond
    assert run(capsys, "rollback", "--why", "it is not")[1].splitlines() == [
        "revision 3: roll back from 3 to 2", "100 % version 2", "fallback version 1", "withdrawn: 3",
    ]  # fmt: skip

    history = run(capsys, "history")[1].splitlines()
    held = run(capsys, "history", "--at", between)[1]
    listed = json.loads(run(capsys, "list", "--json")[1])

    assert [line.split("  ")[-1] for line in history] == ["(it is not)", "(try it)", "(it is better)"]
    assert held == "90 % version 2\n10 % version 3\nfallback version 1\n"
    assert listed[0]["routing"]["withdrawn"] == ["3"]
    assert connect(uri).get_model_version_by_alias(model, "champion").version in (2, "2")


def test_other_aliases_are_given_without_traffic(model, capsys, uri):
    assert run(capsys, "promote", 3, "--alias", "next")[0] == 0

    routing = MlflowLedger(uri).newest(model)
    assert (routing.shares, routing.aliases) == ({"1": 1.0}, {"champion": "1", "next": "3"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["promote", "9"], "expected one of the versions of"),
        (["promote", "4"], "expected a version with a bundle, found none"),
        (["split", "1=0.5"], "which sum to 0.5"),
        (["split", "1"], "expected VERSION=SHARE like 3=0.9 or 3=90%, received '1'"),
        (["split", "1=0.5", "1=0.5"], "expected each version once"),
        (["rollback"], "expected a version that was promoted before 1, found none"),
        (["canary", "2"], "expected --replicas"),
        (["canary", "2", "--alpha", "2"], "alpha: expected a share between 0 and 1"),
        (["history", "--at", "2020-01-01"], "expected a change before 2020-01-01T00:00:00+00:00, found none"),
        (["promote", "2", "--model", "nobody"], "expected one of the registered models"),
        (["rollback", "--model", "nobody"], "expected one of the registered models"),
        (["history", "--model", "nobody"], "expected one of the registered models"),
        (["promote", "2", "--replicas", "here"], "expected addresses like"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_exit_code_2(model, capsys, arguments, sentence):
    code, _, err = run(capsys, *arguments)

    assert code == 2
    assert err.startswith("error: ")
    assert sentence in err


def test_a_service_that_does_not_confirm_is_named_although_the_change_is_written(model, capsys, uri):
    code, out, err = run(capsys, "promote", 2, "--replicas", "http://127.0.0.1:9")

    assert (code, out.splitlines()[0]) == (1, "revision 1: promote 2")
    assert "1 of 1 services did not confirm it" in err
    assert "http://127.0.0.1:9" in err
    assert MlflowLedger(uri).newest(model).champion == "2"


def test_a_rollback_that_no_service_writes_is_written_here(model, capsys, uri):
    run(capsys, "promote", 2)

    code, _, err = run(capsys, "rollback", "--model", model, "--replicas", "http://127.0.0.1:9")

    assert code == 1
    assert err.startswith("no service wrote it, so it is written from here: ")
    assert MlflowLedger(uri).newest(model).champion == "1"


def test_a_model_without_a_champion_says_so(uri, new_run, trained, monkeypatch, capsys):
    Registry(uri).register("bare", run_id=new_run(), folder=trained, metadata=METADATA)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    assert "no champion: nothing is served" in run(capsys, "list", "--model", "bare")[1]
    assert run(capsys, "rollback", "--model", "bare")[0] == 2


def test_help_and_a_mistyped_word_do_not_wait_for_mlflow():
    blocked = "import sys; sys.modules['mlflow'] = None; from tfpipe.rollout.command import main; main(['--help'])"

    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False, env=os.environ)

    assert (done.returncode, done.stderr) == (0, "")
    assert "rollback" in done.stdout


# Feature: deep-learning-pipeline, Property 22: Version unique
@settings(max_examples=100, deadline=None)
@given(names=st.lists(st.sampled_from(["unique-a", "unique-b"]), min_size=1, max_size=4))
def test_two_deployments_never_share_a_version(uri, trained, new_run, names):
    registry = Registry(uri)
    before = {name: _numbers(registry, name) for name in set(names)}

    made = [registry.register(name, run_id=new_run(), folder=trained, metadata=METADATA) for name in names]

    assert len({version.uri for version in made}) == len(made)
    for name, numbers in before.items():
        after = _numbers(registry, name)
        assert len(after) == len(set(after)) == len(numbers) + names.count(name)
        assert not set(numbers) & {version.version for version in made if version.name == name}


def _numbers(registry, name):
    return [one.version for one in registry.versions(name)] if name in registry.names() else []


# Feature: deep-learning-pipeline, Property 24: Metadata complete
@settings(max_examples=100, deadline=None)
@given(
    metadata=st.fixed_dictionaries(
        {}, optional={"created": st.datetimes().map(str), "metrics": st.dictionaries(st.text(max_size=9), st.floats())}
    ),
    config=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60),
)
def test_every_registered_version_has_its_date_metrics_and_configuration(uri, trained, new_run, metadata, config):
    registry = Registry(uri)
    (trained / "config.yaml").write_text(config, encoding="utf-8")
    run_id = new_run()
    known = _numbers(registry, "described")
    if any(key not in metadata for key in REQUIRED_METADATA):
        with pytest.raises(RegistryError, match="expected metadata with"):
            registry.register("described", run_id=run_id, folder=trained, metadata=metadata)
        assert _numbers(registry, "described") == known
        return

    registry.register("described", run_id=run_id, folder=trained, metadata=metadata)

    version = registry.versions("described")[0]
    assert version.run_id == run_id
    assert version.tags["tfpipe.created"] == metadata["created"]
    assert version.tags["tfpipe.config"] == config
    assert json.dumps(json.loads(version.tags["tfpipe.metrics"]), sort_keys=True) == json.dumps(
        metadata["metrics"], sort_keys=True
    )


def test_a_document_of_the_champion_names_every_alias(model, uri):
    connect(uri).set_registered_model_alias(model, "next", "2")
    main(["promote", "3", "--why", ""])

    routing = MlflowLedger(uri).newest(model)

    assert routing.aliases == {"champion": "3", "next": "2"}
    assert routing.salt == initial(model, "1").salt
