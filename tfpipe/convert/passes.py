"""Passes over a model graph: each small, named, and compared with what came before it.

A pass that leaves an invalid graph, operators outside the ONNX standard, or other answers fails the conversion by its
name; nothing is skipped.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from tfpipe.convert.answers import Inputs, answers, assert_same_answers
from tfpipe.convert.onnx_file import domains, light_copy
from tfpipe.convert.rewrites.channels import WidenChannels
from tfpipe.convert.rewrites.difference import contents, num_changes
from tfpipe.convert.rewrites.fold import FOLD_BATCH_NORM, FOLD_CONSTANTS, FUSE_LAYER_NORM, SIMPLIFY
from tfpipe.convert.rewrites.gelu import FuseGelu
from tfpipe.convert.rewrites.opset import ConvertOpset
from tfpipe.convert.rewrites.shapes import SettleShapes
from tfpipe.convert.rewrites.weights import MergeWeights
from tfpipe.core.errors import BundleError, ConversionError, GateError
from tfpipe.core.parity import BOUNDS
from tfpipe.core.signature import Array

logger = logging.getLogger(__name__)

_STANDARD = ("", "ai.onnx")


class GraphPass(Protocol):
    """One rewrite of a model graph that changes no answer.

    Attributes:
        name: For reports and errors.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The rewritten graph; the one given may be changed in place."""
        ...


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        name: Of the pass.
        num_changed: Nodes, stored tensors and versions that it removed, replaced or added; 0: there was nothing to do.
        max_abs_diff: Largest difference of the answers from those before it, relative to outputs beyond 1.
    """

    name: str
    num_changed: int
    max_abs_diff: float = 0.0

    def describe(self) -> str:
        """A line for the report."""
        if not self.num_changed:
            return f"{self.name}: nothing to do"
        return f"{self.name}: {self.num_changed} changes, answers within {self.max_abs_diff:.2g}"


def standard_passes(opset: int) -> tuple[GraphPass, ...]:
    """What every float32 graph goes through, in order.

    Args:
        opset: Version of the standard operators that the result uses.
    """
    return (
        ConvertOpset(opset),
        SettleShapes(),
        SIMPLIFY,
        FOLD_CONSTANTS,
        FOLD_BATCH_NORM,
        FUSE_LAYER_NORM,
        FuseGelu(),
        MergeWeights(),
    )


def preprocessing_passes(opset: int) -> tuple[GraphPass, ...]:
    """What a preprocessing graph goes through, in order.

    Args:
        opset: See `standard_passes`.
    """
    return ConvertOpset(opset), WidenChannels()


def run_passes(
    model: onnx.ModelProto, passes: Sequence[GraphPass], *, inputs: Sequence[Inputs]
) -> tuple[onnx.ModelProto, tuple[PassResult, ...]]:
    """Rewrite a graph, pass by pass; each result must be valid, portable, and answer as the graph before it did.

    Args:
        model: Float32 graph; may be changed.
        passes: In order.
        inputs: Of the graph, on which answers are compared.

    Raises:
        ConversionError: A pass broke the graph; names the pass.
    """
    received = _answers(model, inputs)
    results = []
    before = contents(model)
    for graph_pass in passes:
        known = domains(model)
        model = graph_pass(model)
        after = contents(model)
        num_changed, before = num_changes(before, after), after
        difference = 0.0
        if num_changed:
            _check(graph_pass.name, model, known)
            received, difference = _compare(graph_pass.name, model, inputs, received)
        results.append(PassResult(graph_pass.name, num_changed, difference))
        logger.debug("pass=%s changed=%d max_abs_diff=%.3g", graph_pass.name, num_changed, difference)
    return model, tuple(results)


def _check(name: str, model: onnx.ModelProto, known: set[str]) -> None:
    foreign = sorted(domains(model) - known - set(_STANDARD))
    if foreign:
        raise ConversionError(
            f"pass {name!r}: expected operators of the ONNX standard, which every provider runs, received some of "
            f"{', '.join(foreign)}."
        )
    try:
        onnx.checker.check_model(light_copy(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"pass {name!r}: expected a valid graph, received one that is not: {error}") from error


def _compare(
    name: str, model: onnx.ModelProto, inputs: Sequence[Inputs], references: list[dict[str, Array]]
) -> tuple[list[dict[str, Array]], float]:
    try:
        received = _answers(model, inputs)
        return received, assert_same_answers(received, references, BOUNDS["fp32"], where=f"pass {name!r}")
    except BundleError as error:
        raise ConversionError(f"pass {name!r}: expected a graph that loads, but: {error}") from error
    except GateError as error:
        raise ConversionError(str(error)) from error


def _answers(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> list[dict[str, Array]]:
    # As written: what ONNX Runtime rewrites as it loads a file would be the same on both sides.
    return answers(model, inputs, optimise=False)
