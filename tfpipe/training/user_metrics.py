"""`training.metrics`: a user's own metrics, put together over the workers."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.core.errors import ConfigError
from tfpipe.distributed import World
from tfpipe.models.zoo import import_function, make
from tfpipe.tasks.task import Compared, Task
from tfpipe.training_settings import TrainingConfig

_TRIED_EXAMPLES = 6


def build_metrics(config: TrainingConfig, task: Task) -> list[keras.metrics.Metric]:
    """The metrics that a configuration names.

    Raises:
        ConfigError: One cannot be imported, is no metric, or has a name that is taken.
    """
    metrics = [_metric(name) for name in config.metrics]
    names = [metric.name for metric in metrics]
    taken = [name for name in names if names.count(name) > 1 or name in (*task.metric_names, *task.score_names)]
    if taken:
        raise ConfigError(
            f"training.metrics: expected names of their own, received {taken[0]!r} twice or as a metric of the task. "
            "Give the metric a name=."
        )
    return metrics


def check_metrics(metrics: Sequence[keras.metrics.Metric], task: Task) -> None:
    """Try each metric on a few examples, before hours depend on it.

    Workers' states are added, so the state of two batches must be the sum of those of each.

    Raises:
        ConfigError: A metric fails, gives no single number, or has a state that cannot be added.
    """
    compared = task.compared(*task.examples(_TRIED_EXAMPLES), tf.ones(_TRIED_EXAMPLES))
    tried = [np.asarray(array) for array in (compared.targets, task.probabilities(compared.logits), compared.weights)]
    half = _TRIED_EXAMPLES // 2
    for metric in metrics:
        where = f"training.metrics: {metric.name!r}"
        try:
            first = _state_after(metric, *(array[:half] for array in tried))
            second = _state_after(metric, *(array[half:] for array in tried))
            both = _state_after(metric, *tried, compiled=True)
            result = np.asarray(metric.result())
            metric.reset_state()
        # Whatever the user's code may raise.
        except Exception as error:
            raise ConfigError(
                f"{where}: expected a metric of (labels, probabilities, weights), but it fails: "
                f"{type(error).__name__}: {error}"
            ) from error
        if result.shape != ():
            raise ConfigError(f"{where}: expected one number, received shape {result.shape}. Average it.")
        if not all(np.allclose(a + b, c, rtol=1e-4, atol=1e-5) for a, b, c in zip(first, second, both, strict=True)):
            raise ConfigError(
                f"{where}: expected a state that is a sum over examples, so that those of the workers can be added; "
                "after two batches it is not the sum of both."
            )


def update(metrics: Sequence[keras.metrics.Metric], task: Task, compared: Compared) -> None:
    """Count a batch. Works inside a tf.function."""
    if metrics:
        probabilities = task.probabilities(compared.logits)
        for metric in metrics:
            metric.update_state(compared.targets, probabilities, sample_weight=compared.weights)


def results(metrics: Sequence[keras.metrics.Metric], world: World) -> dict[str, float]:
    """What all workers counted since the last reset, by name; the same on every worker."""
    variables = [variable for metric in metrics for variable in metric.variables]
    if variables:
        for variable, total in zip(variables, world.allreduce_sum([v.value for v in variables]), strict=True):
            variable.assign(total)
    return {metric.name: float(metric.result()) for metric in metrics}


def _state_after(
    metric: keras.metrics.Metric, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, compiled: bool = False
) -> list[np.ndarray]:
    def count(labels: Any, scores: Any, weights: Any) -> None:
        metric.update_state(labels, scores, sample_weight=weights)

    metric.reset_state()
    # In a graph, as over validation data.
    (tf.function(count, autograph=False) if compiled else count)(labels, scores, weights)
    return [np.array(variable.numpy()) for variable in metric.variables]


def _metric(name: str) -> keras.metrics.Metric:
    given = import_function(name, key="training.metrics")
    if inspect.isclass(given) or not _required(given):
        return make(given, keras.metrics.Metric, name=name, key="training.metrics")
    return keras.metrics.MeanMetricWrapper(given, name=given.__name__)


def _required(function: Any) -> list[str]:
    """Parameters that a call must give."""
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
