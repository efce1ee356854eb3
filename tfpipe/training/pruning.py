"""`training.pruning`: the smallest weights become 0 while the others train on and make up for them.

The zeros are the masks: a weight that is 0 once pruning has begun stays 0. So nothing is stored beside the weights,
workers with equal weights prune alike without a word, and a resumed run goes on as if it had not been stopped.

Pruned are the kernels of dense, convolutional and recurrent layers, each to the same share. Biases, norms and embedding
tables are not: they are few, or a row of them says how often a token came rather than how much it matters. Kernels of
depthwise convolutions neither: they are a percent of a network's weights, and of the few of a channel each counts.
Source of the latter: Zhu & Gupta 2017, arXiv:1710.01878, section 4.2.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfpipe.core.errors import ConfigError
from tfpipe.core.schedule import SparsitySchedule
from tfpipe.core.sparsity import num_pruned, prune_smallest, zeros
from tfpipe.training.observers import Observer
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training_settings import TrainingConfig

logger = logging.getLogger(__name__)

_KERNELS = ("kernel", "recurrent_kernel", "pointwise_kernel")
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


class MagnitudePruning(Observer):
    """Prunes a network on a schedule, and keeps at 0 what was pruned.

    Args:
        config: Of the run.
        network: Whose kernels are pruned in place; none where `training.pruning.sparsity` is 0.
        optimizer: Of the run; an average of the weights that it keeps is pruned with them.
        steps_per_epoch: Of every epoch.

    Raises:
        ConfigError: The network has no kernel to prune.
    """

    def __init__(
        self, config: TrainingConfig, network: keras.Model, optimizer: DataParallelOptimizer, steps_per_epoch: int
    ) -> None:
        self.schedule = build_sparsity_schedule(config, steps_per_epoch)
        self.kernels = prunable_kernels(network) if self.schedule.target else []
        if self.schedule.target and not self.kernels:
            raise ConfigError(
                "training.pruning.sparsity: expected a model with kernels of dense, convolutional or recurrent layers, "
                f"received {network.name!r}, which has none. Set it to 0."
            )
        self._averages = _averages(optimizer)
        self._begun = tf.Variable(False, trainable=False)
        self._reached = 0.0

    def on_step_begin(self, step: int) -> None:
        """Prune where the schedule rises; in the first step of a sitting, what an earlier one had pruned."""
        level = self.schedule.at(step)
        if level > self._reached:
            self._prune(level)
            self._begun.assign(True)

    def figures(self) -> dict[str, float]:
        """Share of the kernels' weights that are 0."""
        if not self.kernels:
            return {}
        return {"sparsity": sum(zeros(k.numpy()) for k in self.kernels) / sum(_size(k) for k in self.kernels)}

    def is_complete(self, step: int) -> bool:
        """Whether after so many updates the weights are as sparse as they shall be."""
        return not self.kernels or step > self.schedule.end_step

    def complete(self) -> None:
        """At the end of a run: prune to the target, where the run ended before its schedule."""
        if any(zeros(k.numpy()) < num_pruned(_size(k), self.schedule.target) for k in self.kernels):
            logger.warning(
                "training.pruning: the run ended before its schedule; the rest is pruned now, and nothing makes up "
                "for it. The metrics that follow are those of the pruned model."
            )
            self._prune(self.schedule.target)

    def masks(self) -> list[Any]:
        """Inside the compiled step, before the update: what is not pruned, bool in the shape of each kernel."""
        return [tf.logical_or(tf.not_equal(kernel.value, 0), ~self._begun) for kernel in self.kernels]

    def keep(self, masks: list[Any]) -> None:
        """Inside the compiled step, after the update, which momentum and weight decay move every weight in."""
        for kernel, mask in zip(self.kernels, masks, strict=True):
            for variable in (kernel, *self._averages.get(id(kernel), ())):
                variable.assign(tf.where(mask, variable.value, 0))

    def _prune(self, sparsity: float) -> None:
        for kernel in self.kernels:
            kernel.assign(prune_smallest(kernel.numpy(), sparsity))
        self._reached = sparsity


def build_sparsity_schedule(config: TrainingConfig, steps_per_epoch: int) -> SparsitySchedule:
    """The sparsity of a run; at least its last update is at the target."""
    pruning, last = config.pruning, config.epochs * steps_per_epoch - 1
    start, end = (min(round(share * (last + 1)), last) for share in (pruning.start, pruning.end))
    return SparsitySchedule(pruning.sparsity, start, end, pruning.every_steps)


def prunable_kernels(network: keras.Model) -> list[Any]:
    """The Keras variables that are pruned."""
    depthwise = {
        id(variable)
        for layer in network._flatten_layers()
        if isinstance(layer, _DEPTHWISE)
        for variable in layer.weights
    }
    return [v for v in network.trainable_variables if v.name in _KERNELS and id(v) not in depthwise]


def pruning_card(
    config: TrainingConfig, network: keras.Model, history: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """What model.json says of a pruned model.

    Returns:
        `sparsity`, as asked for; `kernels`, of each by its path how many `weights` it has and how many of them are
        `zeros`; `dense`, the metrics of the last epoch before the first weight was pruned, empty where there was none.
    """
    dense = [dict(metrics) for metrics in history if metrics.get("sparsity") == 0]
    return {
        "sparsity": config.pruning.sparsity,
        "kernels": {k.path: {"weights": _size(k), "zeros": zeros(k.numpy())} for k in prunable_kernels(network)},
        "dense": dense[-1] if dense else {},
    }


def _averages(optimizer: DataParallelOptimizer) -> dict[int, tuple[Any, ...]]:
    """The moving average of each weight by its identity, where the optimizer keeps them."""
    inner = optimizer.inner
    if not inner.use_ema:
        return {}
    pairs = zip(inner._trainable_variables, inner._model_variables_moving_average, strict=True)
    return {id(variable): (average,) for variable, average in pairs}


def _size(variable: Any) -> int:
    size = 1
    for dim in variable.shape:
        size *= dim
    return size
