"""Keras layers of ours for rows of token ids; they ship inside the model.

Every one of them leaves padding out, so that an answer does not depend on how far its row was padded.

Shapes: B batch, S sequence, W width, F filters.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="tfpipe")
class PaddingMask(keras.layers.Layer):
    """Tell tokens from padding.

    Args:
        pad_id: The id that fills rows up; no text has it.
    """

    def __init__(self, pad_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_id = pad_id

    def call(self, ids: Any) -> Any:
        """(B, S) int32 ids -> (B, S) int32, 1 for tokens and 0 for padding."""
        return ops.cast(ops.not_equal(ids, self.pad_id), "int32")

    def compute_output_spec(self, ids: Any) -> Any:
        """(B, S) int32, whatever the policy."""
        return keras.KerasTensor(ids.shape, dtype="int32")

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "pad_id": self.pad_id}


@keras.saving.register_keras_serializable(package="tfpipe")
class MaskedConvolutions(keras.layers.Layer):
    """Convolutions of several widths side by side, with ReLU; padding is zeros to them, as what lies beyond the row.

    Source: Kim 2014, arXiv:1408.5882, section 2; "same" convolutions, as a text may be shorter than the widest one.

    Args:
        filters: Of each width.
        widths: In tokens.
    """

    def __init__(self, filters: int, widths: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.widths = filters, tuple(widths)
        self.convolutions = [
            keras.layers.Conv1D(
                filters, width, padding="same", activation="relu", dtype=self.dtype_policy, name=f"width{width}"
            )
            for width in self.widths
        ]

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the kernels for (B, S, W)."""
        for convolution in self.convolutions:
            convolution.build(input_shape)

    def call(self, inputs: Any, mask: Any) -> Any:
        """(B, S, W) and the mask of `PaddingMask` -> (B, S, filters * len(widths)), none below 0."""
        seen = inputs * ops.expand_dims(ops.cast(mask, inputs.dtype), -1)
        return ops.concatenate([convolution(seen) for convolution in self.convolutions], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None], *_: Any) -> tuple[int | None, ...]:
        """(B, S, W) -> (B, S, filters * len(widths))."""
        return (*input_shape[:-1], self.filters * len(self.widths))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters, "widths": list(self.widths)}


@keras.saving.register_keras_serializable(package="tfpipe")
class BidirectionalLSTM(keras.layers.Layer):
    """An LSTM from the first token on and another from the last one back, side by side.

    The second gets each row reversed up to its padding, as keras.layers.Bidirectional with a mask would read it; but no
    mask reaches cuDNN, which fails on a row of padding alone. Source: Graves & Schmidhuber 2005, section 2.2.

    Args:
        units: Of each direction.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.ahead, self.back = (
            keras.layers.LSTM(units, return_sequences=True, dtype=self.dtype_policy, name=name)
            for name in ("ahead", "back")
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for (B, S, W)."""
        self.ahead.build(input_shape)
        self.back.build(input_shape)

    def call(self, inputs: Any, mask: Any, training: bool = False) -> Any:
        """(B, S, W) and the mask of `PaddingMask`, padding at the end -> (B, S, 2 * units), between -1 and 1."""
        # cuDNN's operation exists in no ONNX file, and in no SavedModel that is to run without a GPU.
        self.ahead.use_cudnn = self.back.use_cudnn = "auto" if training else False
        lengths = ops.sum(mask, axis=-1)
        # tf2onnx takes an LSTM right behind a ReverseSequence for one that reads whole rows backwards, padding first.
        seen = _reversed(inputs, lengths) * ops.expand_dims(ops.cast(mask, inputs.dtype), -1)
        back = self.back(seen, training=training)
        return ops.concatenate([self.ahead(inputs, training=training), _reversed(back, lengths)], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None], *_: Any) -> tuple[int | None, ...]:
        """(B, S, W) -> (B, S, 2 * units)."""
        return (*input_shape[:-1], 2 * self.units)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="tfpipe")
class MaskedMaxPooling(keras.layers.Layer):
    """The largest value over the tokens of a row.

    Args:
        lowest: What stands for padding: the lower bound of the input, 0 after ReLU and -1 after tanh. A row of padding
            alone gives it; the lowest number of the type would not survive half precision.
    """

    def __init__(self, lowest: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lowest = lowest

    def call(self, inputs: Any, mask: Any) -> Any:
        """(B, S, F) of at least `lowest`, and the mask of `PaddingMask` -> (B, F)."""
        padding = ops.cast(self.lowest, inputs.dtype)
        return ops.max(ops.where(ops.expand_dims(mask > 0, -1), inputs, padding), axis=1)

    def compute_output_shape(self, input_shape: Sequence[int | None], *_: Any) -> tuple[int | None, ...]:
        """(B, S, F) -> (B, F)."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "lowest": self.lowest}


@keras.saving.register_keras_serializable(package="tfpipe")
class TokenIds(keras.layers.Layer):
    """Token ids as they are; holds which tokenizer they are of, so that a saved model takes no other.

    Args:
        tokenizer: Hex sha256 of its tokenizer.json.
        max_length: Tokens of a row at most, special ones included.
    """

    def __init__(self, tokenizer: str, max_length: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "int32"})
        self.tokenizer = tokenizer
        self.max_length = max_length

    def call(self, ids: Any) -> Any:
        """(B, S) -> (B, S) int32."""
        return ops.cast(ids, "int32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "tokenizer": self.tokenizer, "max_length": self.max_length}


def _reversed(rows: Any, lengths: Any) -> Any:
    return tf.reverse_sequence(rows, lengths, seq_axis=1)
