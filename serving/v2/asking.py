"""One request of the protocol -> its tensors, whichever way it came."""

import time
from collections.abc import MutableMapping

from serving.deployment import Deployment
from serving.tensor_engine import TensorEngine
from serving.v2.inputs import feeds_of, inputs_of
from serving.v2.messages import InferRequest, Tensor
from serving.v2.outputs import check_outputs, given_names, outputs_of, tensor_of, wants_features


async def ask(
    deployment: Deployment,
    asked: InferRequest,
    *,
    deadline_s: float,
    max_image_pixels: int,
    stage_s: MutableMapping[str, float],
) -> list[Tensor]:
    """The outputs that are wanted, in their order.

    Args:
        deployment: The version that answers.
        asked: The request.
        deadline_s: `time.monotonic()` after which nobody waits for the answer.
        max_image_pixels: Larger images are refused.
        stage_s: Seconds by stage are added to it.

    Raises:
        RequestError: The request is refused.
        DecodeError: An image cannot be read.
        InferenceError: The model failed.
    """
    engine = deployment.engine
    if isinstance(engine, TensorEngine):
        return await _tensors(deployment, engine, asked, deadline_s=deadline_s, stage_s=stage_s)
    check_outputs(given_names(engine), asked)
    inputs = inputs_of(engine, asked, max_image_pixels=max_image_pixels)
    outcome = await deployment.infer(inputs, deadline_s=deadline_s, features=wants_features(asked))
    stage_s.update(outcome.stage_s)
    began_s = time.perf_counter()
    outputs = outputs_of(engine, asked, outcome.all_answered())
    stage_s["postprocess"] = time.perf_counter() - began_s
    return outputs


async def _tensors(
    deployment: Deployment,
    engine: TensorEngine,
    asked: InferRequest,
    *,
    deadline_s: float,
    stage_s: MutableMapping[str, float],
) -> list[Tensor]:
    known = [spec.name for spec in engine.outputs]
    check_outputs(known, asked)
    wanted = [output.name for output in asked.outputs or ()] or known
    feeds = feeds_of(engine, asked)
    arrays, seconds = await deployment.infer_tensors(feeds, wanted, deadline_s=deadline_s)
    stage_s.update(seconds)
    began_s = time.perf_counter()
    tensors = [tensor_of(name, arrays[name]) for name in wanted]
    stage_s["postprocess"] = time.perf_counter() - began_s
    return tensors
