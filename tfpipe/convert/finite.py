"""Weights that are no numbers: found before anything slow, and by the name of the layer."""

import keras
import numpy as np

from tfpipe.core.errors import ConversionError


def assert_finite_weights(model: keras.Model) -> None:
    """Refuse a model with NaN or infinity among its weights: it answers nothing, whatever the input.

    Raises:
        ConversionError: Names the first such weight, and how many there are.
    """
    damaged = [weight for weight in model.weights if not _is_finite(weight)]
    if damaged:
        values = keras.ops.convert_to_numpy(damaged[0])
        count = int(np.sum(~np.isfinite(values.astype(np.float32))))
        more = f", and {len(damaged) - 1} more weights like it" if len(damaged) > 1 else ""
        raise ConversionError(
            f"weight {damaged[0].path!r}: expected finite numbers, received {count} of {values.size} that are NaN or "
            f"infinite{more}. Training diverged: convert an earlier checkpoint, or train with a smaller learning rate."
        )


def _is_finite(weight: keras.Variable) -> bool:
    if not keras.backend.is_float_dtype(weight.dtype):
        return True
    # NumPy knows bfloat16 by an extension that has no isfinite.
    return bool(np.isfinite(keras.ops.convert_to_numpy(weight).astype(np.float32)).all())
