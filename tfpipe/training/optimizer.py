"""A Keras 3 optimizer whose gradients are averaged over the workers before anything is decided by them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfpipe.distributed import World
from tfpipe.training.reduction import Compression, Reduction, reduce_gradients, scaled

# Source: defaults of tf.keras.mixed_precision.LossScaleOptimizer.
_INITIAL_SCALE = 2.0**15
_STEPS_TO_DOUBLE = 2000


@keras.saving.register_keras_serializable(package="tfpipe")
class DataParallelOptimizer(keras.optimizers.Optimizer):
    """Wraps any Keras 3 optimizer: reduce over the workers, undo the loss scale, clip, then apply.

    The order matters. Horovod's own wrapper does nothing under Keras 3, which never calls what it overrides; and a loss
    scale judged before the reduction would let one worker skip a step that the others take.

    Args:
        inner: Any Keras 3 optimizer.
        world: The workers.
        clip_norm: Largest global norm of the averaged gradients; None: no clipping.
        scale_loss: Dynamic loss scaling, for float16.
        reduction: How the workers' gradients become one; see `reduce_gradients`.
        compression: How dense gradients travel; see `reduce_gradients`.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        world: World,
        *,
        clip_norm: float | None = None,
        scale_loss: bool = False,
        reduction: Reduction = "mean",
        compression: Compression = "none",
    ) -> None:
        super().__init__(learning_rate=0.0, name="data_parallel")
        self.inner, self.world, self.max_norm = inner, world, clip_norm
        self.scaled = scale_loss
        self._reduction, self._compression = reduction, compression
        self.loss_scale = keras.Variable(
            _INITIAL_SCALE if scale_loss else 1.0, dtype="float32", trainable=False, name="scale"
        )
        self.finite_steps = keras.Variable(0, dtype="int32", trainable=False, name="finite_steps")

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's and the state of the loss scale: what a checkpoint must hold."""
        return [*self.inner.variables, self.loss_scale, self.finite_steps]

    @property
    def iterations(self) -> Any:
        """Updates applied."""
        return self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner.learning_rate = value

    def build(self, variables: Sequence[Any]) -> None:
        """Make the inner optimizer's slots."""
        if not self.inner.built:
            self.inner.build(variables)
        self.built = True

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Keras's entry, as `model.fit` calls it: gradients of this worker's mean loss, workers weighing alike."""
        variables = trainable_variables if trainable_variables is not None else self.inner._trainable_variables
        self.apply_sums(grads, variables, tf.ones((1,)))

    def apply_sums(
        self, gradients: Sequence[Any], variables: Sequence[Any], sums: Any, *, alone: bool = False
    ) -> tuple[Any, Any]:
        """Reduce gradient sums and update.

        Args:
            gradients: Sums of per-example gradients of the scaled loss, dense or `tf.IndexedSlices`; None for a
                variable that took no part.
            variables: What they are the gradients of.
            sums: (n,) float32, the first being the weight of this worker's examples; see `reduce_gradients`.
            alone: Leave the other workers out, as if there were none.

        Returns:
            The reduced sums, and the global norm of the averaged gradients before clipping.
        """
        self.build(variables)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        world = World() if alone else self.world
        averaged, total = reduce_gradients(
            [g for g, _ in pairs], sums, world, reduction=self._reduction, compression=self._compression
        )
        if self.scaled:
            averaged = [scaled(g, 1.0 / self.loss_scale.value) for g in averaged]
        norm = tf.linalg.global_norm(averaged)
        if self.max_norm is not None:
            averaged, _ = tf.clip_by_global_norm(averaged, self.max_norm, use_norm=norm)
        update = [(g, v) for g, (_, v) in zip(averaged, pairs, strict=True)]
        usable = total[0] > 0.0
        if self.scaled:
            usable &= tf.math.is_finite(norm)
            self._adjust_scale(tf.math.is_finite(norm))
        tf.cond(usable, lambda: self._update(update), tf.no_op)
        return total, norm

    def scale_loss(self, loss: Any) -> Any:
        """Multiply the loss by the current scale."""
        return loss * tf.cast(self.loss_scale.value, loss.dtype) if self.scaled else loss

    def finalize_variable_values(self, trainable_variables: Sequence[Any]) -> None:
        """As the inner optimizer does at the end of training."""
        self.inner.finalize_variable_values(trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Not to be rebuilt from a configuration: the workers are not part of it. Holds the inner optimizer's."""
        return {"inner": keras.saving.serialize_keras_object(self.inner)}

    def _update(self, update: Sequence[tuple[Any, Any]]) -> Any:
        self.inner.apply([g for g, _ in update], [v for _, v in update])
        return tf.no_op()

    def _adjust_scale(self, finite: Any) -> None:
        """Halve after an overflow, double after a long time without.

        Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
        """
        steps = tf.where(finite, self.finite_steps.value + 1, 0)
        grown = steps >= _STEPS_TO_DOUBLE
        scale = self.loss_scale.value
        self.loss_scale.assign(tf.where(finite, tf.where(grown, scale * 2.0, scale), tf.maximum(scale / 2.0, 1.0)))
        self.finite_steps.assign(tf.where(grown, 0, steps))
