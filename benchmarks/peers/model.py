"""What every peer answers with: the same ONNX files on ONNX Runtime with one thread; no tfpipe.

Run by the peers' own Pythons. From the environment: PEER_MODEL, a folder with model.onnx and, where pixels are sent,
preprocess.onnx; PEER_SHAPE, of what is sent for one row, e.g. 28x28x1.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

# Rows at once, for servers that batch.
MAX_BATCH_SIZE = int(os.environ.get("PEER_BATCH", "16"))
# How long a server waits for more rows, where it asks.
BATCH_WAIT_S = 0.002


class Model:
    """Answers bodies: raw pixels (uint8) if there is preprocess.onnx, else raw rows (float32)."""

    def __init__(self) -> None:
        folder = Path(os.environ["PEER_MODEL"])
        self._shape = tuple(int(length) for length in os.environ["PEER_SHAPE"].split("x"))
        self._network = _session(folder / "model.onnx")
        preprocess = folder / "preprocess.onnx"
        self._preprocess = _session(preprocess) if preprocess.exists() else None

    def answer(self, body: bytes) -> np.ndarray:
        """(classes,) float32."""
        return self.answer_all([body])[0]

    def answer_all(self, bodies: list[bytes]) -> np.ndarray:
        """(rows, classes) float32."""
        return self.run(np.stack([self.read(body) for body in bodies]))

    def read(self, body: bytes) -> np.ndarray:
        """The row of a body."""
        if self._preprocess is None:
            return np.frombuffer(body, np.float32).reshape(self._shape)
        image = np.frombuffer(body, np.uint8).reshape(self._shape)
        return self._preprocess.run(None, {"image": image})[0]

    def prepare(self, given: np.ndarray) -> np.ndarray:
        """Rows of an array of what is sent, a row each."""
        if self._preprocess is None:
            return given
        return np.stack([self._preprocess.run(None, {"image": image})[0] for image in given])

    def run(self, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32."""
        return self._network.run(None, {"input": rows})[0]


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
