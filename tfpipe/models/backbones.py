"""Transformers of keras-nlp, with random weights or from a preset."""

from typing import Any

import keras
import keras_hub  # type: ignore[import-untyped]

from tfpipe.core.errors import ConfigError
from tfpipe.settings import Config, ModelConfig

FAMILIES = {
    "bert": keras_hub.models.BertBackbone,
    "roberta": keras_hub.models.RobertaBackbone,
    "distilbert": keras_hub.models.DistilBertBackbone,
}


def transformer(family: str, vocabulary_size: int, max_length: int, config: Config) -> Any:
    """The backbone that a configuration asks for.

    Args:
        family: Of `FAMILIES`.
        vocabulary_size: Of the tokenizer.
        max_length: Of a row.
        config: Its `model.preset`, or else the sizes beside it.

    Raises:
        ConfigError: The preset cannot be loaded, is of another family, or does not go with the tokenizer or the length.
    """
    if config.model.preset is None:
        return _random(family, vocabulary_size, max_length, config.model)
    backbone = _pretrained(family, config.model.preset)
    if backbone.vocabulary_size != vocabulary_size:
        raise ConfigError(
            f"preprocessing.tokenizer: expected the {backbone.vocabulary_size} tokens of model.preset "
            f"{config.model.preset!r}, received a vocabulary that does not belong to the model, of {vocabulary_size}."
        )
    if backbone.max_sequence_length < max_length:
        raise ConfigError(
            f"preprocessing.max_length: expected at most {backbone.max_sequence_length}, the positions of model.preset "
            f"{config.model.preset!r}, received {max_length}."
        )
    return backbone


def features(backbone: Any, ids: Any, mask: Any, *, pooled: bool) -> Any:
    """Call a backbone for what a head needs.

    Args:
        backbone: As `transformer` gives it.
        ids: (B, S) int32 symbolic tensor.
        mask: (B, S) int32, 1 for tokens and 0 for padding.
        pooled: BERT alone: its own dense layer on the first token, (B, width), rather than all tokens.

    Returns:
        (B, S, width) or (B, width), in the policy's compute dtype.
    """
    output = backbone.output
    if isinstance(output, dict):
        output = output["pooled_output" if pooled else "sequence_output"]
    # Without the layers that this head does not need, which would never get a gradient.
    needed = keras.Model(backbone.input, output)
    inputs = {"token_ids": ids, "padding_mask": mask}
    if "segment_ids" in backbone.input:
        inputs["segment_ids"] = keras.ops.zeros_like(ids)
    # Not as one layer: what thaws and is recomputed layer by layer shall see each.
    return needed.call(inputs)


def _random(family: str, vocabulary_size: int, max_length: int, model: ModelConfig) -> Any:
    if model.width % model.num_heads:
        raise ConfigError(
            f"model.width: expected a multiple of model.num_heads ({model.num_heads}), received {model.width}."
        )
    return FAMILIES[family](
        vocabulary_size=vocabulary_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        hidden_dim=model.width,
        intermediate_dim=model.feed_forward_width or 4 * model.width,
        dropout=model.dropout,
        max_sequence_length=max_length,
    )


def _pretrained(family: str, preset: str) -> Any:
    where = f"model.preset: expected a {family} preset of keras-nlp, by name or as a local folder, received {preset!r}"
    try:
        return FAMILIES[family].from_preset(preset)
    # keras-nlp raises what its stores raise: files, HTTP, Kaggle.
    except Exception as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error
