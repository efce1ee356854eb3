"""Models of texts by name. To add one: a function, and a line in `TEXT_MODELS`.

A builder takes (tokens, num_classes, config, per_token) and gives a Keras model from int32 ids (B, S) to logits,
(B, num_classes) or, per token, (B, S, num_classes).
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from tfpipe.core.errors import ConfigError
from tfpipe.models.assembly import load_weights
from tfpipe.models.backbones import FAMILIES, features, transformer
from tfpipe.models.depth import is_embedding, layer_units
from tfpipe.models.text_layers import BidirectionalLSTM, MaskedConvolutions, MaskedMaxPooling, PaddingMask
from tfpipe.models.zoo import MODELS, import_function
from tfpipe.settings import Config

# Source: Kim 2014, arXiv:1408.5882, section 3.1.
_CONVOLUTION_WIDTHS = (3, 4, 5)


@dataclass(frozen=True)
class Tokens:
    """What a network must know of the rows that it gets.

    Attributes:
        vocabulary_size: Ids are below it.
        pad_id: Fills rows up at the end.
        max_length: Of a row, special tokens included.
    """

    vocabulary_size: int
    pad_id: int
    max_length: int


Builder = Callable[[Tokens, int, Config, bool], keras.Model]


def text_cnn(tokens: Tokens, num_classes: int, config: Config, per_token: bool) -> keras.Model:
    """Embeddings and convolutions over 3, 4 and 5 tokens, `model.width` each; the largest over a text."""
    rows, mask = _rows(tokens)
    x = _embedding(tokens, config)(rows)
    x = MaskedConvolutions(config.model.width, _CONVOLUTION_WIDTHS, name="convolutions")(x, mask)
    if not per_token:
        x = MaskedMaxPooling(0.0, name="pool")(x, mask)
    return _with_head(rows, x, num_classes, config)


def text_bilstm(tokens: Tokens, num_classes: int, config: Config, per_token: bool) -> keras.Model:
    """Embeddings and one LSTM of `model.width` units each way; the largest output over a text.

    Source: Conneau et al. 2017, arXiv:1705.02364, section 3.2.3.
    """
    rows, mask = _rows(tokens)
    x = _embedding(tokens, config)(rows)
    x = BidirectionalLSTM(config.model.width, name="bilstm")(x, mask)
    if not per_token:
        x = MaskedMaxPooling(-1.0, name="pool")(x, mask)
    return _with_head(rows, x, num_classes, config)


def encoder(family: str, tokens: Tokens, num_classes: int, config: Config, per_token: bool) -> keras.Model:
    """A transformer of keras-nlp with the head that its family has; per token, a dense layer on each."""
    rows, mask = _rows(tokens)
    backbone = transformer(family, tokens.vocabulary_size, tokens.max_length, config)
    x = features(backbone, rows, mask, pooled=not per_token)
    if not per_token and family != "bert":
        # Source: RobertaClassificationHead of fairseq, and DistilBertForSequenceClassification.
        activation = "tanh" if family == "roberta" else "relu"
        x = _dropout(x[:, 0, :], "head_dense_dropout", config) if family == "roberta" else x[:, 0, :]
        x = keras.layers.Dense(backbone.hidden_dim, activation=activation, name="head_dense")(x)
    return _with_head(rows, x, num_classes, config)


TEXT_MODELS: dict[str, Builder] = {
    "text_cnn": text_cnn,
    "text_bilstm": text_bilstm,
    **{family: partial(encoder, family) for family in FAMILIES},
}


def build_text_network(config: Config, tokens: Tokens, num_classes: int, *, per_token: bool) -> keras.Model:
    """The network of a configuration, token ids -> logits, with its initial weights.

    Args:
        config: Its `model` section.
        tokens: Of the tokenizer and the rows.
        num_classes: Classes, or tags.
        per_token: Logits of each token rather than of the text.

    Returns:
        A model "network" from int32 (B, S) ids to float32 logits, (B, num_classes) or (B, S, num_classes). Padding does
        not change the logits of a text, nor those of a token.

    Raises:
        ConfigError: Unknown model, weights or a preset that cannot be had or do not go with the tokenizer, or a
            function that gives something else.
    """
    name = config.model.name
    if config.model.weights == "imagenet":
        raise ConfigError(f"model.weights: {name!r} has no imagenet weights; expected `random` or a local file.")
    if config.model.preset is not None and name in TEXT_MODELS and name not in FAMILIES:
        raise ConfigError(f"model.preset: expected model.name to be one of {', '.join(FAMILIES)}, received {name!r}.")
    network = _builder(name)(tokens, num_classes, config, per_token)
    _check(network, name, (None, None, num_classes) if per_token else (None, num_classes))
    if config.model.weights != "random":
        load_weights(network, Path(config.model.weights))
    if config.model.freeze_embeddings:
        _freeze_embeddings(network, name)
    network.name = "network"
    return network


def _builder(name: str) -> Builder:
    if ":" in name:
        function = import_function(name, key="model.name")
        return lambda tokens, num_classes, config, _: function(tokens, num_classes, config)
    if name in MODELS:
        raise ConfigError(
            f"model.name: expected a model of texts ({', '.join(TEXT_MODELS)}), received {name!r}, a model of images."
        )
    if name not in TEXT_MODELS:
        close = difflib.get_close_matches(name, TEXT_MODELS, n=1)
        hint = (
            f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(TEXT_MODELS)}, or package.module:function."
        )
        raise ConfigError(f"model.name: unknown model {name!r}. {hint}")
    return TEXT_MODELS[name]


def _check(network: Any, name: str, expected: tuple[int | None, ...]) -> None:
    if not isinstance(network, keras.Model):
        raise ConfigError(f"model.name: expected {name!r} to return a Keras model, received {network!r}.")
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in network.inputs]
    if shapes != [((None, None), "int32")]:
        raise ConfigError(
            f"model.name: expected {name!r} to take one input of int32 ids, (None, None), received {shapes}."
        )
    if tuple(network.output_shape) != expected:
        raise ConfigError(
            f"model.name: expected {name!r} to give logits of shape {expected}, received {network.output_shape}."
        )


def _freeze_embeddings(network: keras.Model, name: str) -> None:
    embeddings = [layer for unit in layer_units(network) for layer in unit if is_embedding(layer)]
    if not embeddings:
        raise ConfigError(
            f"model.freeze_embeddings: expected layers with `embedding` in their names, {name!r} has none with weights."
        )
    for layer in embeddings:
        layer.trainable = False


def _rows(tokens: Tokens) -> tuple[Any, Any]:
    """The input, and its mask."""
    rows = keras.Input((None,), dtype="int32", name="rows")
    return rows, PaddingMask(tokens.pad_id, name="padding_mask")(rows)


def _embedding(tokens: Tokens, config: Config) -> keras.layers.Layer:
    return keras.layers.Embedding(tokens.vocabulary_size, config.model.width, name="embedding")


def _dropout(x: Any, name: str, config: Config) -> Any:
    if not config.model.dropout:
        return x
    return keras.layers.Dropout(config.model.dropout, name=name, seed=config.training.seed)(x)


def _with_head(rows: Any, x: Any, num_classes: int, config: Config) -> keras.Model:
    x = _dropout(x, "head_dropout", config)
    # float32: the loss of half-precision logits overflows.
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(rows, logits, name="network")
