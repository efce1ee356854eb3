"""Trained model of texts -> SavedModel for TensorFlow Serving."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from tfpipe.export import answers_of, save_signatures
from tfpipe.models.assembly import TextParts
from tfpipe.text.keras_side import has_keras_layer, keras_layer, splits_words

# By whether there is a signature for strings.
LIMITS = {
    True: "`serving_default` takes strings and cuts them to one row, long texts to tag too; it needs the kernels of "
    "TensorFlow Text in the server. `tensor` takes token ids.",
    False: "It takes token ids (`tensor`): this tokenizer has no Keras layer that gives the ids of training.",
}


def has_string_signature(parts: TextParts) -> bool:
    """Whether keras-nlp has a layer that makes the ids of training."""
    return has_keras_layer(parts.tokenizer)


def export_text_saved_model(parts: TextParts, folder: Path) -> None:
    """Write a SavedModel with the signatures `serving_default` (`text`, where ids can be equal) and `tensor` (`input`).

    Both give `probabilities` float32, (B, classes) or (B, tokens, tags), with `label` string and `score` float32 of the
    best.

    Args:
        parts: The trained model, under float32 policies.
        folder: Made; TensorFlow Serving wants its name to be a number.

    Raises:
        ConversionError: The folder cannot be written.
    """
    tensor = _tensor(parts)
    if not has_string_signature(parts):
        save_signatures(parts, {"tensor": tensor}, folder)
        return
    layer = keras_layer(parts.tokenizer)
    signatures = {"tensor": tensor, "serving_default": _text(parts, layer, tensor)}
    save_signatures(parts, signatures, folder, tokenizer=layer)


def _tensor(parts: TextParts) -> Any:
    # Argument names are what clients send.
    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, "input")], autograph=False)
    def tensor(input: Any) -> dict[str, Any]:
        return answers_of(parts, input)

    return tensor


def _text(parts: TextParts, layer: Any, tensor: Any) -> Any:
    tokenizer = parts.tokenizer
    split, room = splits_words(tokenizer), parts.max_length - 2

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")], autograph=False)
    def text(text: Any) -> Any:
        ids = tf.cast(layer(text if split else text[:, tf.newaxis])[:, :room], tf.int32)
        edge = tf.ones((tf.shape(text)[0], 1), tf.int32)
        row = tf.concat([edge * tokenizer.start_id, ids, edge * tokenizer.end_id], axis=1)
        return tensor(row.to_tensor(tokenizer.pad_id))

    return text
