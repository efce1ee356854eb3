"""Which operation stands in the way of a conversion, and which Keras layer it came from."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras

# Keras opens the scope of a layer more than once in a trace: each adds such an end to its name.
_COUNTED = re.compile(r"_\d+$")
_ADVICE = (
    "Write it with operations of keras.ops that ONNX has, or move it out of the model. "
    "TensorFlow Serving can run the model as it is."
)


@dataclass(frozen=True)
class Operation:
    """An operation of a TensorFlow trace.

    Attributes:
        name: With the scopes that it was traced in, e.g. "network_1/attention_1/Betainc".
        op_type: TensorFlow's, e.g. "Betainc".
    """

    name: str
    op_type: str


def explain_operations(operations: Sequence[Operation], layers: Iterable[keras.layers.Layer]) -> str:
    """Sentences on operations that have no ONNX form.

    Args:
        operations: One at least.
        layers: Of the model, those inside others included.
    """
    known = {layer.name: layer for layer in layers}
    # Each pair once, in the order of the trace.
    places = list(dict.fromkeys((one.op_type, _place(one.name, known)) for one in operations))
    received = "; ".join(f"{op_type} {place}" for op_type, place in places)
    return f"model: expected operations that ONNX has, received {received}. {_ADVICE}"


def explain_failure(error: Exception, operations: Sequence[Operation], layers: Iterable[keras.layers.Layer]) -> str:
    """Sentences on a failure of the converter: the operations that its message names, where it names any.

    Args:
        error: What the converter raised.
        operations: All of the trace.
        layers: See `explain_operations`.
    """
    text = str(error)
    words = set(re.findall(r"\w+", text))
    named = [one for one in operations if one.name in text] or [one for one in operations if one.op_type in words]
    if not named:
        return f"model: expected operations that tf2onnx can convert; {type(error).__name__}: {text}. {_ADVICE}"
    return f"{explain_operations(named, layers)} The converter: {text}"


def _place(name: str, known: dict[str, keras.layers.Layer]) -> str:
    scopes = name.split("/")[:-1]
    # The innermost layer is the one to change.
    for scope in reversed(scopes):
        for candidate in (scope, _COUNTED.sub("", scope)):
            if candidate in known:
                return f"of layer {candidate!r} ({type(known[candidate]).__name__})"
    return f"in {'/'.join(scopes)!r}" if scopes else "of the model"
