"""BentoML with its adaptive batching; base64 in JSON. `bentoml serve bentoml_app:Answers --port PORT`."""

import base64

import bentoml
from model import MAX_BATCH_SIZE, Model


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Answers:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=60_000)
    def predict(self, contents: list[str]) -> list[list[float]]:
        return self.model.answer_all([base64.b64decode(content) for content in contents]).tolist()
