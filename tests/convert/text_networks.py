"""Small text networks with random weights, and rows of token ids for them."""

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub  # type: ignore[import-untyped]
import numpy as np

from tfpipe.preprocessing.layers import Probabilities

VOCABULARY, PAD, CLASSES, LONGEST = 300, 0, 3, 64
FAMILIES = ("bert", "roberta", "distilbert", "text_cnn", "text_bilstm")
TRANSFORMERS = FAMILIES[:3]
_BACKBONES = {
    "bert": keras_hub.models.BertBackbone,
    "roberta": keras_hub.models.RobertaBackbone,
    "distilbert": keras_hub.models.DistilBertBackbone,
}


@keras.saving.register_keras_serializable(package="tfpipe_tests")
class Present(keras.layers.Layer):
    """1 for a token, 0 for padding."""

    def call(self, ids: Any) -> Any:
        return keras.ops.cast(keras.ops.not_equal(ids, PAD), "int32")


def network_of(
    family: str, *, per_token: bool = False, layers: int = 2, width: int = 32, dropout: float = 0.1
) -> keras.Model:
    """`rows` int32 (None, None) -> logits, (None, 3) or (None, None, 3); no weight is 0 or 1 as it was set at first."""
    rows = keras.Input((None,), dtype="int32", name="rows")
    tokens = _tokens(family, rows, layers, width, dropout)
    if not per_token:
        present = keras.ops.cast(Present()(rows), "float32")[..., None]
        tokens = keras.ops.sum(tokens * present, axis=1) / keras.ops.sum(present, axis=1)
    network = keras.Model(rows, keras.layers.Dense(CLASSES, name="logits")(tokens), name="network")
    random = np.random.default_rng(11)
    for weight in network.weights:
        # Zero biases would be optimised away.
        weight.assign(weight + random.normal(0, 0.1, weight.shape))
    return network


def _tokens(family: str, rows: Any, layers: int, width: int, dropout: float) -> Any:
    if family in _BACKBONES:
        backbone = _BACKBONES[family](
            VOCABULARY, layers, 4, width, 2 * width, max_sequence_length=LONGEST, dropout=dropout
        )
        inputs = {"token_ids": rows, "padding_mask": Present()(rows), "segment_ids": keras.ops.zeros_like(rows)}
        given = backbone({name: inputs[name] for name in backbone.input})
        return given["sequence_output"] if family == "bert" else given
    if family == "text_bilstm":
        embedded = keras.layers.Embedding(VOCABULARY, width, mask_zero=True)(rows)
        return keras.layers.Bidirectional(keras.layers.LSTM(width, return_sequences=True))(embedded)
    embedded = keras.layers.Embedding(VOCABULARY, width)(rows)
    embedded = embedded * keras.ops.cast(Present()(rows), "float32")[..., None]
    return keras.layers.Conv1D(width, 3, padding="same", activation="relu")(embedded)


def probabilities() -> keras.layers.Layer:
    """The layer from logits to probabilities."""
    return Probabilities([str(i) for i in range(CLASSES)], name="probabilities")


def rows_of(lengths: Sequence[int], padded: int | None = None, seed: int = 5) -> np.ndarray:
    """Random rows of these lengths, padded to the longest or further: (rows, tokens) int32."""
    random = np.random.default_rng(seed)
    rows = np.full((len(lengths), padded or max(lengths)), PAD, np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = random.integers(1, VOCABULARY, length)
    return rows


def keras_answers(network: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Keras's probabilities."""
    return np.asarray(probabilities()(network(rows, training=False)))
