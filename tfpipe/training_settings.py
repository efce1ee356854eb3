"""Section `training` of a configuration."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tfpipe.sections import Section, Strings


def _class_weights(value: object) -> object:
    """`balanced` as the mapping that stands for it, and labels as text: YAML reads the class `3` as a number."""
    if value == BALANCED:
        return {BALANCED: 1.0}
    return {str(label): weight for label, weight in value.items()} if isinstance(value, dict) else value


def _seconds(value: object) -> object:
    """Seconds of `hours:minutes:seconds`, which YAML 1.1 may have read as a number already."""
    if isinstance(value, str) and (parts := re.fullmatch(r"(\d+):([0-5]?\d):([0-5]?\d)", value.strip())):
        hours, minutes, seconds = (int(part) for part in parts.groups())
        return float(3600 * hours + 60 * minutes + seconds)
    if isinstance(value, str):
        raise ValueError("seconds, or hours:minutes:seconds like '01:30:00'")
    return value


BALANCED = "balanced"
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
ClassWeights = Annotated[dict[str, Annotated[float, Field(ge=0)]], BeforeValidator(_class_weights)]


class PruningConfig(Section):
    """Magnitude pruning while the model trains."""

    sparsity: float = Field(
        0.0, ge=0, lt=1, description="Share of each kernel's weights that are 0 in the end; 0: no pruning."
    )
    start: float = Field(0.2, ge=0, lt=1, description="Share of the run's updates before the first weight is pruned.")
    end: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Share of the run's updates after which all are; in the rest the others make up for them, and the "
        "best weights are chosen.",
    )
    every_steps: int = Field(20, ge=1, description="Updates between two rises of the sparsity.")


class TrainingConfig(Section):
    """The optimisation."""

    epochs: int = Field(10, ge=1, description="Passes over the training data.")
    batch_size: int = Field(64, ge=1, description="Samples of one optimizer update, over all workers.")
    reference_batch_size: int | None = Field(
        None,
        ge=1,
        description="learning_rate is meant for this batch size and scales with batch_size over it; "
        "default: no scaling.",
    )
    accumulation_steps: int = Field(1, ge=1, description="Micro-batches into which a worker cuts its share of a batch.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="Update rule.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate at the reference batch size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(
        0.0, ge=0, description="Decoupled weight decay, of adamw and sgd; biases and norms excepted."
    )
    schedule: Literal["constant", "cosine", "cosine_restarts"] = Field("cosine", description="Shape after warm-up.")
    warmup_epochs: float = Field(0.0, ge=0, description="Linear ramp from zero; fractions allowed.")
    restart_epochs: float = Field(
        10.0, gt=0, description="Length of the first cosine_restarts cycle; each next is twice as long."
    )
    final_learning_rate_fraction: float = Field(
        0.0, ge=0, le=1, description="Lowest learning rate, as a share of the peak."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of a layer over that of the layer above it, from the head (1) down.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    gradient_reduction: Literal["mean", "adasum"] = Field(
        "mean",
        description="How workers' gradients become one: their mean over all examples, or Adasum of each worker's mean "
        "(then the result depends on the number of workers).",
    )
    gradient_compression: Literal["none", "fp16", "bf16"] = Field(
        "none", description="Gradients travel in 16 bits and are added up in 32; pays where the network is slow."
    )
    elastic: bool = Field(
        False,
        description="Go on when workers are lost or join; start with horovodrun --min-np, --max-np and "
        "--host-discovery-script.",
    )
    elastic_commit_steps: int = Field(
        10,
        ge=1,
        description="Steps between two copies of the state in memory; a lost worker costs at most so many.",
    )
    stall_s: float = Field(
        30.0,
        gt=0,
        description="Seconds after which the first worker says whom the others wait for; an elastic run then gives up "
        "a worker that does not run.",
    )
    sync_batch_norm: bool = Field(
        False, description="BatchNormalization over the samples of all workers, rather than of each by itself."
    )
    sentinel_steps: int | None = Field(
        100, ge=1, description="Steps between two checks that all workers hold the same weights; null: never."
    )
    loss: str | None = Field(
        None, description="Your loss, package.module:function: (labels, logits) -> one loss an example."
    )
    class_weights: ClassWeights = Field(
        {},
        description="How much the examples of a class count in the gradient, {label: weight}, 1 where not named; or "
        "`balanced`: samples / (classes * samples of the class). Metrics stay as they are.",
    )
    gradient_clip_norm: float | None = Field(None, gt=0, description="Largest global gradient norm.")
    ema_momentum: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Keep an exponential moving average of the weights, of about 1 / (1 - ema_momentum) updates; it is "
        "what is validated and saved as the model.",
    )
    pruning: PruningConfig = PruningConfig()
    rematerialization: Literal["none", "segments"] = Field(
        "none",
        description="segments: keep the activations at a few cuts through the network only and compute the others "
        "again for the gradients; less memory, about a third more computation, the same gradients.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "auto"] = Field(
        "float32",
        description="Keras dtype policy; auto: the mixed one that the device is made for, where a few steps of the "
        "run's own model show that it is faster than float32.",
    )
    allow_slow_precision: bool = Field(
        False, description="Train in mixed_float16 without a GPU, where it is up to 50 times slower than float32."
    )
    monitor: str = Field(
        "val_loss", description="Metric that chooses the best checkpoint; *_loss is minimised, others maximised."
    )
    early_stopping_epochs: int | None = Field(None, ge=1, description="Stop after so many epochs without improvement.")
    max_time: Seconds | None = Field(
        None,
        description="Time of training over all sittings, in seconds or as hours:minutes:seconds; then the run ends as "
        "after its last epoch, with validation, best weights and registration.",
    )
    callbacks: Strings = Field(
        (), description="Your Keras callbacks, each package.module:name of a class or function that gives one."
    )
    metrics: Strings = Field(
        (),
        description="Your metrics of validation and test data, each package.module:name of a keras.metrics.Metric "
        "class, of a function that gives one, or of a function (labels, probabilities) -> one value an example.",
    )
    limit_train_batches: int | None = Field(
        None, ge=1, description="Steps of an epoch at most; each epoch takes the first so many of its own order."
    )
    limit_validation_batches: int | None = Field(
        None, ge=1, description="Validate on so many times batch_size samples at most, picked once by the seed."
    )
    overfit_batches: int | None = Field(
        None,
        ge=1,
        description="Train on the samples of the first so many batches only, again and again, and validate on the "
        "same: a model that can learn brings its loss to zero.",
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="Also save a checkpoint every so many steps.")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints kept, beside the best.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of initial weights, order, augmentation and dropout.")
    deterministic: bool = Field(
        False, description="Bit-equal repetition and resume on one worker, at some cost in speed."
    )
    timeline: str | None = Field(
        None,
        description="File for Horovod's timeline of what was sent when, in Chrome's trace format; several workers.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="TCP port at which the first worker serves the run's figures to Prometheus."
    )
    metrics_host: str = Field("127.0.0.1", description="Address to serve them at; 0.0.0.0: to other machines too.")
    placement: Literal["auto", "none"] = Field(
        "auto",
        description="auto: each worker of horovodrun keeps to its own share of its machine's cores; none: the "
        "scheduler's choice.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads of a worker inside an operation, and between operations; default: one for each core of "
        "its share, and together no more than the container's CPU quota.",
    )
