"""LitServe with its batching and its fast queue; base64 in JSON, as its documentation sends images. `... PORT`."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
from model import BATCH_WAIT_S, MAX_BATCH_SIZE, Model


class Answers(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return self.model.read(base64.b64decode(request["content"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.run(rows)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Answers(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
