"""The service needs nothing of the training stack."""

import subprocess
import sys

import pytest

from tests.serving.text_bundles import make_text_bundle
from tests.text.texts import CORPUS
from tfpipe.text.train_tokenizer import train_tokenizer

HEAVY = ("tensorflow", "keras", "horovod", "tf2onnx", "onnx", "sklearn", "matplotlib", "omegaconf", "keras_hub")
MODULES = ("serving.app", "serving.__main__")


@pytest.mark.parametrize("module", [*MODULES, "tfpipe.registry"])
def test_imports_where_the_training_stack_is_missing(module):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import {module}"

    subprocess.run([sys.executable, "-c", blocked], check=True)


SHARED = {
    "tfpipe.cgroups", "tfpipe.decode", "tfpipe.ort", "tfpipe.ort_providers", "tfpipe.placement", "tfpipe.provenance",
    "tfpipe.tuned", "tfpipe.inference",
    "tfpipe.inference.golden", "tfpipe.inference.images", "tfpipe.inference.interface",
    "tfpipe.inference.opening", "tfpipe.inference.tensors", "tfpipe.inference.texts",
    "tfpipe.text", "tfpipe.text.encoding", "tfpipe.text.golden",
    "tfpipe.text.packing", "tfpipe.text.tokenizer", "tfpipe.text.tokenizer_files",
}  # fmt: skip
OF_A_TOKENIZER = {
    "bpe": ({"tfpipe.text.byte_pairs"}, {"tokenizers"}),
    "sentencepiece": ({"tfpipe.text.sentence_pieces"}, {"sentencepiece"}),
    "wordpiece": ({"tfpipe.text.word_pieces", "tfpipe.text.normalization", "tfpipe.text.unicode_table"}, set()),
}
KINDS = ["bpe", "sentencepiece", pytest.param("wordpiece", marks=pytest.mark.tensorflow)]


def imported_by(statements: str) -> set[str]:
    """Names of all modules that a fresh process has after some statements."""
    script = f"import sys\n{statements}\nprint(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(listed.split())


def test_of_tfpipe_only_what_training_and_service_share_is_imported():
    imported = imported_by("import serving.__main__")

    modules = {name for name in imported if name.startswith("tfpipe.") and not name.startswith("tfpipe.core")}
    assert modules == SHARED
    assert imported.isdisjoint({"tokenizers", "sentencepiece"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_texts_is_served_with_the_library_of_its_tokenizer_alone(kind, tmp_path):
    tokenizer = train_tokenizer(CORPUS, kind=kind, vocabulary_size=400)
    folder = make_text_bundle(tmp_path / "moods", tokenizer)

    imported = imported_by(f"""
sys.modules.update(dict.fromkeys({HEAVY}))
from serving.app import engines_of_settings
from serving.settings import ServingSettings
(engine,) = engines_of_settings(ServingSettings(model={str(folder)!r}))
engine.replay_golden()
prepared = engine.prepare("a text", {{}})
assert "label" in prepared.answer([row.probabilities for row in engine.run(prepared.rows)])
""")

    own, libraries = OF_A_TOKENIZER[kind]
    modules = {name for name in imported if name.startswith("tfpipe.") and not name.startswith("tfpipe.core")}
    assert modules == SHARED | own
    assert imported & {"tokenizers", "sentencepiece"} == libraries


def test_mlflow_is_imported_only_for_a_registered_model():
    script = "import sys, serving.__main__; sys.exit('mlflow' in sys.modules)"

    subprocess.run([sys.executable, "-c", script], check=True)
