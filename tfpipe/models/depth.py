"""The layers of a network by how far they lie below its head."""

from collections.abc import Iterator

import keras


def layer_units(network: keras.Model) -> list[list[keras.layers.Layer]]:
    """The layers with weights, the lowest first, as the units that thaw together and share a learning rate.

    A layer is one unit; a transformer's layer is one Keras layer. Layers that are called embeddings are together the
    lowest unit, and the last layer, with any that are called head_..., the highest. Models inside are opened.

    Args:
        network: Functional, or with its layers in order.

    Returns:
        At least one unit where there are weights; the last is the head.
    """
    layers = [layer for layer in _flat(network) if layer.weights]
    if not layers:
        return []
    *below, last = layers
    embeddings = [layer for layer in below if is_embedding(layer)]
    head = [layer for layer in below if layer.name.startswith("head_")]
    between = [[layer] for layer in below if layer not in embeddings and layer not in head]
    return [*([embeddings] if embeddings else []), *between, [*head, last]]


def nested_models(network: keras.Model) -> list[keras.Model]:
    """The models inside a network, outer ones first."""
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return [model for layer in inner for model in (layer, *nested_models(layer))]


def is_embedding(layer: keras.layers.Layer) -> bool:
    """Whether a layer belongs to the embeddings: by name, as their position embeddings and norms do so too."""
    return "embedding" in layer.name


def _flat(network: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer
