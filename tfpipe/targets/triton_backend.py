"""What Triton's Python backend runs: raw inputs -> answers. Imported by the `model.py` of an exported repository."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# There only inside Triton.
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import SignatureError, TfpipeError
from tfpipe.core.signature import Array
from tfpipe.inference.tensors import TensorModel
from tfpipe.targets.answering import Answered, BundleAnswers, open_proved

_PROVIDERS = {"CPU": "cpu", "GPU": "cuda"}


class TritonPythonModel:
    """Triton makes one an instance, each in a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle beside this version's model.py; an exception keeps Triton from serving it."""
        parameters = json.loads(args["model_config"])["parameters"]
        bundle = open_bundle(Path(args["model_repository"]) / args["model_version"] / "bundle")
        precision, provider = parameters["precision"]["string_value"], _PROVIDERS[args["model_instance_kind"]]
        self._model = open_proved(bundle, precision, provider=provider)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, or say why not."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            if isinstance(self._model, TensorModel):
                answered = [triton.Tensor(name, array) for name, array in self._model.run(given).items()]
            else:
                answered = _tensors(_answer(self._model, given), self._model.inference.labels)
            return triton.InferenceResponse(output_tensors=answered)
        except TfpipeError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), _code(error)))


def _answer(answers: BundleAnswers, given: Mapping[str, Array]) -> list[Answered]:
    if len(given) != 1:
        raise SignatureError(f"inputs: expected one of those that the model lists, received {sorted(given)}.")
    [(name, array)] = given.items()
    if len(array) == 0:
        raise SignatureError(f"{name}: expected at least one row, received none.")
    if name == "pixels":
        return answers.of_pixels(array)
    return answers.of(array.tolist())


def _tensors(answered: Sequence[Answered], labels: Sequence[str]) -> list[Any]:
    if "entities" in answered[0].answer:
        rows = [json.dumps(one.answer["entities"], ensure_ascii=False).encode() for one in answered]
        return [triton.Tensor("entities", np.array(rows, object))]
    probabilities = np.stack([one.probabilities for one in answered]).astype(np.float32)
    # Of several labels too, as the SavedModel's signatures give them: the most probable.
    best = [labels[index].encode() for index in probabilities.argmax(axis=1)]
    return [
        triton.Tensor("probabilities", probabilities),
        triton.Tensor("label", np.array(best, object)),
        triton.Tensor("score", probabilities.max(axis=1)),
    ]


def _code(error: TfpipeError) -> Any:
    return triton.TritonError.INTERNAL if error.exit_code == 1 else triton.TritonError.INVALID_ARG
