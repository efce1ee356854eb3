"""Activations computed again rather than kept: `training.rematerialization`.

keras.RematScope recomputes layer by layer: it keeps every layer's input, which in a convolutional network is nearly
everything, lets BatchNormalization move twice a step and Dropout draw another mask for the gradients. Here the network
is cut where one tensor joins its halves, only the cuts are kept, and a segment is recomputed as a pure function of its
input and of the state that it had.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174, section 3.2.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfpipe.core.errors import ConfigError

_WHOLE = ("bool", "int32", "int64")


def segments(network: keras.Model) -> list[keras.Model]:
    """Cut a network into about as many pieces as the square root of its layers; they share its layers.

    Returns:
        Each from a list, what the piece before it gives and then the tensors of `_carried`, to one tensor.

    Raises:
        ConfigError: It cannot be cut anywhere.
    """
    cuts = _cuts(network)
    wanted = max(2, round(math.sqrt(len(network.layers))))
    if not cuts:
        raise ConfigError(
            "training.rematerialization: expected a functional network that some single tensor divides, as most chains "
            "of blocks are; this one has none. Use `none`."
        )
    picked = sorted({len(cuts) * i // wanted for i in range(1, wanted)})
    ends = [*(cuts[place] for place in picked), network.outputs[0]]
    carried = _carried(network)
    return [keras.Model([start, *carried], end) for start, end in zip([network.inputs[0], *ends], ends, strict=False)]


def recomputing(network: keras.Model) -> Callable[[Any], Any]:
    """The network in training mode, rows -> logits, with as few activations kept as it goes."""
    pieces, carried = segments(network), _carried(network)
    masks = keras.Model(network.inputs[0], carried) if carried else None

    def call(rows: Any) -> Any:
        given = [] if masks is None else tf.nest.flatten(masks(rows, training=True))
        for piece in pieces:
            rows = _recomputed(piece, rows, given)
        return rows

    return call


def _recomputed(piece: keras.Model, rows: Any, given: list[Any]) -> Any:
    """One segment: its new state is assigned once; the second pass starts from the state that the first had."""
    changed: list[Any] = []
    state = [tf.identity(variable.value) for variable in piece.non_trainable_variables]

    @tf.custom_gradient
    def run(rows: Any, *weights: Any) -> Any:
        outputs, new_state = piece.stateless_call(list(weights), state, [rows, *given], training=True)
        # Not the weights of frozen layers: they would be copied each step.
        moved = [place for place, value in enumerate(new_state) if value is not state[place]]
        changed[:] = [piece.non_trainable_variables[place] for place in moved]

        def gradient(upstream: Any, *_: Any) -> Any:
            # Only then may the second pass begin: begun at once, it would hold what was to be spared.
            with tf.control_dependencies([upstream]):
                again, *weights_again = [tf.identity(tensor) for tensor in (rows, *weights)]
            # Ids have no gradient.
            watched = [again, *weights_again] if rows.dtype.is_floating else weights_again
            with tf.GradientTape() as tape:
                tape.watch(watched)
                repeated, _ = piece.stateless_call(weights_again, state, [again, *given], training=True)
            gradients = tape.gradient(repeated, watched, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return gradients if rows.dtype.is_floating else [None, *gradients]

        return (outputs, *[new_state[place] for place in moved]), gradient

    outputs, *values = run(rows, *[variable.value for variable in piece.trainable_variables])
    for variable, value in zip(changed, values, strict=True):
        variable.assign(value)
    return outputs


def _cuts(network: keras.Model) -> list[Any]:
    """Symbolic tensors that are by themselves all that is still needed of what came before, but for `_carried`."""
    nodes = _nodes(network)
    last_use = {id(tensor): place for place, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use |= {id(tensor): len(nodes) for tensor in network.outputs}
    kept = {id(tensor) for tensor in _carried(network)}
    cuts: list[Any] = []
    live: list[Any] = []
    for place, node in enumerate(nodes[:-1]):
        live = [tensor for tensor in [*live, *node.output_tensors] if last_use.get(id(tensor), 0) > place]
        needed = [tensor for tensor in live if id(tensor) not in kept]
        if len(needed) == 1 and needed[0] is node.output_tensors[0] and not node.is_input:
            cuts.append(needed[0])
    return cuts


def _carried(network: keras.Model) -> list[Any]:
    """What is made of whole numbers alone, as the padding mask of a transformer's layers: small, without a gradient."""
    carried: dict[int, Any] = {}
    inputs = {id(tensor) for tensor in network.inputs}
    for node in _nodes(network):
        whole = all(tensor.dtype in _WHOLE for tensor in node.output_tensors)
        if not node.is_input and whole and all(id(tensor) in inputs | set(carried) for tensor in node.input_tensors):
            carried |= {id(tensor): tensor for tensor in node.output_tensors}
    return list(carried.values())


def _nodes(network: keras.Model) -> list[Any]:
    """The calls of a functional network in the order of their execution.

    Not operation._inbound_nodes: they hold the calls of other models that share the layer, the segments' own too.
    """
    by_depth = getattr(network, "_nodes_by_depth", {})
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
