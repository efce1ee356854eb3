"""Ray Serve with its batching, one replica; the raw body in, JSON out. `python ray_app.py PORT`."""

import signal
import sys
from typing import Any

import ray
from model import BATCH_WAIT_S, MAX_BATCH_SIZE, Model
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Answers:
    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def answer_all(self, bodies: list[bytes]) -> list[list[float]]:
        return self.model.answer_all(bodies).tolist()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"probabilities": await self.answer_all(await request.body())}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1]), "access_log": False})
    serve.run(Answers.bind(), route_prefix="/predict", logging_config={"enable_access_log": False})
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
