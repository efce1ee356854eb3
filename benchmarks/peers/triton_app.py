"""Triton's Python backend on ONNX Runtime, with dynamic batching; copied into its model repository as model.py."""

import os
import sys
from typing import Any

import triton_python_backend_utils as triton

sys.path.insert(0, os.environ["PEER_CODE"])

import numpy as np
from model import Model


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        self.model = Model()

    def execute(self, requests: list[Any]) -> list[Any]:
        given = [triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        rows = np.concatenate([self.model.prepare(one) for one in given])
        answers = np.split(self.model.run(rows), np.cumsum([len(one) for one in given])[:-1])
        return [triton.InferenceResponse([triton.Tensor("probabilities", answer)]) for answer in answers]
