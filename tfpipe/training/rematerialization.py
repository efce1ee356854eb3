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


def segments(network: keras.Model) -> list[keras.Model]:
    """Cut a network into about as many pieces as the square root of its layers; they share its layers.

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
    picked = sorted({cuts[len(cuts) * i // wanted] for i in range(1, wanted)} or {cuts[len(cuts) // 2]})
    operations = network.operations
    ends = [operations[position].output for position in picked] + [network.outputs[0]]
    return [keras.Model(start, end) for start, end in zip([network.inputs[0], *ends], ends, strict=False)]


def recomputing(network: keras.Model) -> Callable[[Any], Any]:
    """The network in training mode, (B, height, width, 3) -> logits, with as few activations kept as it goes."""
    pieces = segments(network)

    def call(rows: Any) -> Any:
        for piece in pieces:
            rows = _recomputed(piece, rows)
        return rows

    return call


def _recomputed(piece: keras.Model, rows: Any) -> Any:
    """One segment: its new state is assigned once; the second pass starts from the state that the first had."""
    changed: list[Any] = []
    state = [tf.identity(variable.value) for variable in piece.non_trainable_variables]

    @tf.custom_gradient
    def run(rows: Any, *weights: Any) -> Any:
        outputs, new_state = piece.stateless_call(list(weights), state, rows, training=True)
        # Not the weights of frozen layers: they would be copied each step.
        moved = [place for place, value in enumerate(new_state) if value is not state[place]]
        changed[:] = [piece.non_trainable_variables[place] for place in moved]

        def gradient(upstream: Any, *_: Any) -> Any:
            # Only then may the second pass begin: begun at once, it would hold what was to be spared.
            with tf.control_dependencies([upstream]):
                again, *weights_again = [tf.identity(tensor) for tensor in (rows, *weights)]
            with tf.GradientTape() as tape:
                tape.watch([again, *weights_again])
                repeated, _ = piece.stateless_call(weights_again, state, again, training=True)
            return tape.gradient(
                repeated, [again, *weights_again], upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )

        return (outputs, *[new_state[place] for place in moved]), gradient

    outputs, *values = run(rows, *[variable.value for variable in piece.trainable_variables])
    for variable, value in zip(changed, values, strict=True):
        variable.assign(value)
    return outputs


def _cuts(network: keras.Model) -> list[int]:
    """Positions in `network.operations` after which only that operation's output is still needed."""
    operations = getattr(network, "operations", [])
    position = {id(operation): place for place, operation in enumerate(operations)}
    uses: dict[int, list[int]] = {place: [] for place in position.values()}
    calls = [0] * len(operations)
    # Not operation._inbound_nodes: they hold the calls of other models that share the layer, the segments' own too.
    for node in (node for nodes in getattr(network, "_nodes_by_depth", {}).values() for node in nodes):
        place = position[id(node.operation)]
        calls[place] += 1
        for parent in node.parent_nodes:
            uses[position[id(parent.operation)]].append(place)
    needed_until, cuts = 0, []
    for place in range(len(operations) - 1):
        # All that came before has been used by here; a layer called twice has no single output.
        if place > 0 and needed_until <= place and calls[place] == 1:
            cuts.append(place)
        needed_until = max(needed_until, *uses[place], place)
    return cuts
