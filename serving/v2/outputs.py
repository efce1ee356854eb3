"""Answers of a model -> the tensors that a request wants."""

import json
from collections.abc import Sequence

import numpy as np

from serving.engine import Answered
from serving.errors import InvalidRequestError
from serving.model_facts import ModelFacts, gives_entities
from serving.model_outputs import probabilities_of
from serving.v2.datatypes import BYTES, datatype_of
from serving.v2.messages import InferRequest, Tensor, WantedOutput
from tfpipe.core.signature import Array


def given_names(model: ModelFacts) -> tuple[str, ...]:
    """The outputs of a model of images or texts, in the order of the metadata."""
    if gives_entities(model):
        return ("entities",)
    names = ("probabilities", "label", "score")
    return (*names, "features") if model.gives_features else names


def check_outputs(known: Sequence[str], request: InferRequest) -> None:
    """Refuse outputs that the model does not give.

    Args:
        known: Names of its outputs.
        request: What is wanted.

    Raises:
        InvalidRequestError: Another output, or classes of one that has none.
    """
    for output in request.outputs or ():
        if output.name not in known:
            raise InvalidRequestError(
                f"outputs: expected {', '.join(known)}, received {output.name[:100]!r}.", expected=list(known)
            )
        if output.classes and output.name != "probabilities":
            raise InvalidRequestError(
                f"outputs: expected classification of 'probabilities' alone, received it of {output.name!r}."
            )


def wants_features(request: InferRequest) -> bool:
    """Whether the vector before the head is asked for; it is given to none who does not name it."""
    return any(output.name == "features" for output in request.outputs or ())


def outputs_of(model: ModelFacts, request: InferRequest, answered: Sequence[Answered]) -> list[Tensor]:
    """The tensors of answered rows that are wanted, in the order in which they are.

    Args:
        model: Of images or texts.
        request: Checked by `check_outputs`.
        answered: One a row of the request.
    """
    wanted = request.outputs or [WantedOutput(name) for name in given_names(model) if name != "features"]
    if gives_entities(model):
        rows = [json.dumps(one.answer()["entities"], ensure_ascii=False).encode() for one in answered]
        return [Tensor(output.name, BYTES, (len(rows),), rows) for output in wanted]
    probabilities = probabilities_of(answered)
    return [_made(model, output, probabilities, answered) for output in wanted]


def _made(model: ModelFacts, output: WantedOutput, probabilities: Array, answered: Sequence[Answered]) -> Tensor:
    if output.classes:
        return _best(model, probabilities, output.classes)
    if output.name == "probabilities":
        return Tensor("probabilities", "FP32", probabilities.shape, probabilities)
    if output.name == "label":
        return _labels(model, probabilities)
    if output.name == "score":
        return Tensor("score", "FP32", probabilities.shape[:1], probabilities.max(axis=1))
    return _features(answered)


def _features(answered: Sequence[Answered]) -> Tensor:
    features = np.array([one.rows[0].features for one in answered])
    return Tensor("features", "FP32", features.shape, features)


def tensor_of(name: str, array: Array) -> Tensor:
    """An array as a tensor of an answer."""
    datatype = datatype_of(array.dtype)
    if datatype == BYTES:
        flat = [one if isinstance(one, bytes) else str(one).encode() for one in array.reshape(-1).tolist()]
        return Tensor(name, datatype, array.shape, flat)
    return Tensor(name, datatype, array.shape, array)


def _labels(model: ModelFacts, probabilities: Array) -> Tensor:
    # Of several labels too, as an exported SavedModel gives them: the most probable.
    best = [model.labels[index].encode() for index in probabilities.argmax(axis=1).tolist()]
    return Tensor("label", BYTES, (len(best),), best)


def _best(model: ModelFacts, probabilities: Array, classes: int) -> Tensor:
    """`score:index:label` of the most probable classes. Source: Triton, "Classification Extension"."""
    count = min(classes, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    rows = [
        f"{row[index]:f}:{index}:{model.labels[index]}".encode()
        for row, best in zip(probabilities, order.tolist(), strict=True)
        for index in best
    ]
    return Tensor("probabilities", BYTES, (len(probabilities), count), rows)
