"""Models with random weights whose answers tell inputs apart, for tests of conversion that need no training."""

from collections.abc import Sequence

import keras
import numpy as np

from tfpipe.config import Config, load_config
from tfpipe.models.assembly import Parts, assemble, build_network, build_preprocessing, known_normalization
from tfpipe.models.zoo import Normalization

LABELS = ("cat", "dog", "owl")
# As adapting to pictures would give.
ADAPTED = Normalization((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def config_of(*overrides: str) -> Config:
    """The digits configuration with other values, rows of 32x32."""
    return load_config(None, ["preprocessing.image_size=[32,32]", *overrides])


def random_parts(config: Config, *, labels: Sequence[str] = LABELS, spread: float = 1.5) -> Parts:
    """A model of a configuration.

    Batch normalisation gets statistics as if trained, and the last layer is scaled, so that an answer depends on every
    layer: fresh weights give all classes about the same probability, whatever the input.

    Args:
        config: Names the model and its preprocessing.
        labels: Class names.
        spread: Standard deviation of the logits over random rows.
    """
    keras.utils.set_random_seed(7)
    network = build_network(config, len(labels))
    random = np.random.default_rng(7)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(random.normal(0, 0.2, layer.beta.shape))
            layer.moving_mean.assign(random.normal(0, 0.2, layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, layer.moving_variance.shape))
    preprocessing = build_preprocessing(config.preprocessing, known_normalization(config) or ADAPTED)
    pixels = random.integers(0, 256, (16, *network.input_shape[1:]), dtype=np.uint8)
    logits = np.asarray(network(preprocessing.rows(pixels), training=False))
    kernel, bias = network.get_layer("logits").get_weights()
    scale = spread / (logits - logits.mean(axis=0)).std()
    network.get_layer("logits").set_weights([kernel * scale, bias - logits.mean(axis=0) * scale])
    return assemble(preprocessing, network, tuple(labels))
