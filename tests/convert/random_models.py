"""Models with random weights whose answers tell inputs apart, for tests of conversion that need no training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfpipe.config import load_config
from tfpipe.models.assembly import ImageParts, assemble, build_network, build_preprocessing, known_normalization
from tfpipe.models.zoo import Normalization
from tfpipe.settings import Config

LABELS = ("cat", "dog", "owl")
# As adapting to pictures would give.
ADAPTED = Normalization((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))

# Standard deviation of the logits over random pictures.
_SPREAD = 1.5


def config_of(*overrides: str) -> Config:
    """The digits configuration with other values, rows of 32x32."""
    return load_config(None, ["preprocessing.image_size=[32,32]", *overrides])


def random_parts(config: Config, *, labels: Sequence[str] = LABELS, statistics: bool = True) -> ImageParts:
    """A model of a configuration.

    The last layer is scaled, so that answers differ: with fresh weights all classes are about equally probable.

    Args:
        config: Names the model and its preprocessing.
        labels: Class names.
        statistics: Whether batch normalisation gets the statistics of random pictures. Not for deep networks: with
            random weights they then answer by the last bit of their input, and Keras's own graph differs from eager.
    """
    keras.utils.set_random_seed(7)
    network = build_network(config, len(labels))
    preprocessing = build_preprocessing(config.preprocessing, known_normalization(config) or ADAPTED)
    pixels = np.random.default_rng(7).integers(0, 256, (32, *network.input_shape[1:]), dtype=np.uint8)
    # From all dark to all light: noise alone looks the same to a convolution, wherever it is.
    rows = preprocessing.rows(pixels // np.arange(1, 33, dtype=np.uint8)[:, None, None, None])
    if statistics:
        _take_statistics(network, rows)
    logits = np.asarray(network(rows, training=False))
    kernel, bias = network.get_layer("logits").get_weights()
    scale = _SPREAD / (logits - logits.mean(axis=0)).std()
    network.get_layer("logits").set_weights([kernel * scale, bias - logits.mean(axis=0) * scale])
    return assemble(preprocessing, network, tuple(labels))


def _take_statistics(network: keras.Model, rows: Any) -> None:
    """Set the moving statistics of batch normalisation as training on these rows would in the end."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    network(rows, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
