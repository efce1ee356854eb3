"""Batch normalisation over the samples of all workers.

Keras's own `synchronized=True` asks tf.distribute, which knows nothing of Horovod. Here the layers' way to their
statistics is replaced while they train, and the saved model holds the plain Keras layers.
"""

from functools import partial
from typing import Any

import keras
import tensorflow as tf

from tfpipe.distributed import World


class SynchronizedStatistics:
    """Gives every BatchNormalization of a network the mean and variance over all workers.

    Args:
        network: Its layers are changed in place.
        world: The workers.
    """

    def __init__(self, network: keras.Model, world: World) -> None:
        self._world = world
        self._weights: Any = None
        for layer in network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer._moments = partial(self._moments, layer)

    def weigh(self, weights: Any) -> None:
        """Set what each row of the following forward pass weighs: 0 for one that only keeps a worker in step.

        Args:
            weights: (B,) float32.
        """
        self._weights = weights

    def _moments(self, layer: keras.layers.BatchNormalization, inputs: Any, mask: Any) -> tuple[Any, Any]:
        # The moving mean is the same on every worker, and near the mean: squares of what is left lose no digits.
        shift = tf.stop_gradient(tf.cast(layer.moving_mean.value, inputs.dtype))
        broadcast = [1] * len(inputs.shape)
        broadcast[layer.axis] = inputs.shape[layer.axis]
        centred = inputs - tf.reshape(shift, broadcast)
        row = tf.reshape(tf.cast(self._weights, inputs.dtype), [-1, *[1] * (len(inputs.shape) - 1)])
        weight = row if mask is None else row * tf.cast(tf.expand_dims(mask, -1), inputs.dtype)
        axes = layer._reduction_axes
        total, squares = tf.reduce_sum(weight * centred, axes), tf.reduce_sum(weight * tf.square(centred), axes)
        count = tf.reduce_sum(weight * tf.ones_like(centred), axes)
        count, total, squares = self._world.allreduce_sum([count, total, squares])
        count = tf.maximum(count, 1.0)
        mean = total / count
        variance = tf.maximum(squares / count - tf.square(mean), 0.0)
        return mean + shift, variance
