"""The certificate of texts, measured again: of a broken bundle, or a service of another model, the hop is named."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.servers import app_of, serving
from tests.serving.text_bundles import make_text_bundle
from tests.text.texts import CORPUS
from tfpipe.core.bundle import Manifest, open_bundle, seal, write_golden
from tfpipe.text.train_tokenizer import train_tokenizer
from tfpipe.verify.golden import GoldenSamples
from tfpipe.verify.http import http_hop

CLASSES = {"labels": ("sad", "calm", "glad")}
SWAPPED = {"labels": ("O", "B-PER", "B-LOC", "I-PER", "I-LOC")}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, kind="bpe", vocabulary_size=300)


def bundle_of(folder, tokenizer, task, **changes):
    return make_text_bundle(folder, tokenizer, task=task, manifest_changes=changes)


def asked(folder, known):
    """The hop over HTTP of a service of one bundle, asked what another should answer."""
    with serving(app_of(folder)) as server:
        return http_hop(f"http://127.0.0.1:{server.port}", GoldenSamples(open_bundle(known)))


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_a_service_of_the_same_model_holds(tokenizer, tmp_path, task):
    folder = bundle_of(tmp_path / "bundle", tokenizer, task)

    hop = asked(folder, folder)

    assert (hop.problem, hop.agreement) == ("", 1.0)
    assert hop.max_abs_diff < 1e-5
    assert hop.bound is not None


@pytest.mark.parametrize(("task", "changes"), [("text_classification", CLASSES), ("token_classification", SWAPPED)])
def test_a_service_of_another_model_breaks_the_last_hop(tokenizer, tmp_path, task, changes):
    known = bundle_of(tmp_path / "known", tokenizer, task)
    other = bundle_of(tmp_path / "other", tokenizer, task, **changes)

    hop = asked(other, known)

    assert hop.problem.startswith("file -> HTTP answer (fp32 on cpu): expected ")
    assert hop.agreement < 1.0


def test_a_service_of_another_task_breaks_the_last_hop(tokenizer, tmp_path):
    known = bundle_of(tmp_path / "known", tokenizer, "text_classification")
    other = bundle_of(tmp_path / "other", tokenizer, "token_classification")

    assert "expected answers with probabilities, received entities" in asked(other, known).problem
    assert "expected answers with entities, received label" in asked(known, other).problem


def test_entities_of_texts_that_are_close_to_a_tie_may_differ(tokenizer, tmp_path):
    known = bundle_of(tmp_path / "known", tokenizer, "token_classification")
    other = bundle_of(tmp_path / "other", tokenizer, "token_classification", **SWAPPED)
    # Nothing is certain of a model whose answers may be this far from Keras's.
    manifest = Manifest.from_json((known / "bundle.json").read_text(), where="known")
    variant = replace(manifest.variants["fp32"], precision="int8", golden_max_abs_diff=0.5)
    seal(known, replace(manifest, variants={"fp32": variant}))

    assert asked(other, known).problem == ""


def test_another_tokenizer_is_found_in_preprocessing(tokenizer, tmp_path):
    folder = bundle_of(tmp_path / "bundle", tokenizer, "text_classification")
    samples = GoldenSamples(open_bundle(folder)).samples
    shutil.rmtree(folder / "golden")
    write_golden(
        folder,
        [(Path(one.golden.file).name, one.content, one.golden.probabilities) for one in samples],
        rows=[one.row for one in samples],
    )
    shutil.rmtree(folder / "tokenizer")
    train_tokenizer(CORPUS, kind="bpe", vocabulary_size=270).save(folder / "tokenizer")
    seal(folder, Manifest.from_json((folder / "bundle.json").read_text(), where="here"))

    broken = next(hop for hop in GoldenSamples(open_bundle(folder)).hops() if hop.problem)

    assert broken.name == "preprocess"
    assert broken.problem.startswith("text -> token ids: expected ")
