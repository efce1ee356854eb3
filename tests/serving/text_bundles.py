"""Small bundles of texts made without TensorFlow: each token has a vector, their mean or each of them is an answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core.bundle import Manifest, Variant, seal, write_golden
from tfpipe.core.signature import TensorSpec
from tfpipe.core.statistics import FILE, Statistics
from tfpipe.text.encoding import Tokenizer
from tfpipe.text.packing import pack

CLASSES = ("calm", "glad", "sad")
TAGS = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
MAX_LENGTH = 24
_WIDTH = 16
# Sharp enough that answers differ from text to text.
_SHARPNESS = 8.0
GOLDEN_TEXTS = ("", "The quick brown fox", "voix ambiguë d'un cœur", "👍🏽 אני יכול", "the dog sleeps on " * 10)


def labels_of(task: str) -> tuple[str, ...]:
    return CLASSES if task == "text_classification" else TAGS


def make_text_bundle(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    task: str = "text_classification",
    multi_label: bool = False,
    max_length: int = MAX_LENGTH,
    settings: str | None = None,
    golden_offset: float = 0.0,
    manifest_changes: Mapping[str, Any] | None = None,
    statistics: Statistics | None = None,
) -> Path:
    """Write a sealed bundle.

    Args:
        folder: Folder to make.
        tokenizer: Travels in it.
        task: "text_classification" or "token_classification".
        multi_label: Whether each class is answered for itself.
        max_length: Tokens of a row at most.
        settings: Content of preprocessing.json, where it is to differ.
        golden_offset: Added to the golden answers, which are right without it.
        manifest_changes: Fields of the manifest that differ.
        statistics: Of what it was trained on.
    """
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    written = {"config": {"max_length": max_length}}
    (folder / "preprocessing.json").write_text(json.dumps(written) if settings is None else settings)
    path = folder / "model.fp32.onnx"
    per_token = task == "token_classification"
    onnx.save(_graph(tokenizer, per_token, multi_label), path)
    variant = Variant("fp32", path.name, {}, path.stat().st_size, {}, {"1": 0.1}, True, 0.0, {})
    samples = []
    for index, text in enumerate(GOLDEN_TEXTS):
        expected = text_reference(tokenizer, text, task=task, multi_label=multi_label, max_length=max_length)
        samples.append((f"{index:04d}.txt", text.encode(), expected + np.float32(golden_offset)))
    write_golden(folder, samples)
    if statistics is not None:
        (folder / FILE).write_text(statistics.to_json(), encoding="utf-8")
    outputs = ("batch", "sequence", len(TAGS)) if per_token else ("batch", len(CLASSES))
    values: dict[str, Any] = {
        "model_name": "moods" if not per_token else "names",
        "model_version": "5",
        "task": task,
        "labels": labels_of(task),
        "multi_label": multi_label,
        "inputs": (TensorSpec("input", "int32", ("batch", "sequence")),),
        "outputs": (TensorSpec("probabilities", "float32", outputs),),
        "preprocess_inputs": (TensorSpec("text", "str", ()),),
        "variants": {"fp32": variant},
        "default_variant": "fp32",
        "training": {},
        "measured_on": {},
        "created": "2026-01-01T00:00:00+00:00",
    }
    seal(folder, Manifest(**{**values, **(manifest_changes or {})}))
    return folder


def text_reference(
    tokenizer: Tokenizer, text: str, *, task: str, multi_label: bool = False, max_length: int = MAX_LENGTH
) -> np.ndarray:
    """(classes,) or (tokens, tags) probabilities of a text's first row, by NumPy."""
    row = pack(
        tokenizer.encode(text).ids, max_length=max_length, start_id=tokenizer.start_id, end_id=tokenizer.end_id
    )  # fmt: skip
    vectors, weights = _weights(tokenizer.vocabulary_size, len(labels_of(task)))
    embedded = vectors[row]
    mean = embedded.mean(axis=0)
    logits = ((embedded + mean) if task == "token_classification" else mean) @ weights
    if multi_label:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def _weights(vocabulary_size: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(vocabulary_size, _WIDTH)).astype(np.float32)
    return vectors, (_SHARPNESS / _WIDTH * random.normal(size=(_WIDTH, num_labels))).astype(np.float32)


def _graph(tokenizer: Tokenizer, per_token: bool, multi_label: bool) -> onnx.ModelProto:
    num_labels = len(TAGS if per_token else CLASSES)
    vectors, weights = _weights(tokenizer.vocabulary_size, num_labels)
    nodes = [
        helper.make_node("Gather", ["vectors", "input"], ["embedded"]),
        helper.make_node("Equal", ["input", "padding"], ["is_padding"]),
        helper.make_node("Not", ["is_padding"], ["is_token"]),
        helper.make_node("Cast", ["is_token"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_3"]),
        helper.make_node("Mul", ["embedded", "mask_3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "sequence"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["mask_3", "sequence"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["length"]),
        helper.make_node("Div", ["sum", "length"], ["mean"]),
        helper.make_node("Add", ["embedded", "mean"], ["in_context"])
        if per_token
        else helper.make_node("Squeeze", ["mean", "sequence"], ["in_context"]),
        helper.make_node("MatMul", ["in_context", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"])
        if multi_label
        else helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    constants = {
        "vectors": vectors,
        "weights": weights,
        "padding": np.int32(tokenizer.pad_id),
        "last": np.array([2]),
        "sequence": np.array([1]),
        "one": np.float32(1),
    }
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    shape = ["batch", "sequence", num_labels] if per_token else ["batch", num_labels]
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("input", TensorProto.INT32, ["batch", "sequence"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
