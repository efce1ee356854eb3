"""Every knob of a run as typed settings."""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

# Keys that a resumed run may change; all others belong to what the checkpoint holds.
RESUMABLE_KEYS = (
    "training.epochs",
    "training.sentinel_steps",
    "training.elastic",
    "training.elastic_commit_steps",
    "training.stall_s",
    "training.max_time",
    "training.placement",
    "training.threads",
    "training.allow_slow_precision",
    "training.timeline",
    "training.metrics_port",
    "training.metrics_host",
    "tracking.",
    "output_dir",
    "conversion.",
)

# YAML has lists only; strict mode would refuse them for a tuple.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Floats = Annotated[tuple[float, ...], Field(strict=False)]
Ints = Annotated[tuple[int, ...], Field(strict=False)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(_Section):
    """Where samples come from and how they are read."""

    path: str = Field(
        description="Folder with one sub-folder per class, CSV or JSONL manifest (path, label), TFRecord shards "
        "(folder, file or glob), `digits`, or package.module:function; of texts, CSV, TSV or JSONL (text, label), a "
        "folder of .txt files, CoNLL, or `messages`."
    )
    validation_path: str | None = Field(None, description="Validation data, in any of the forms of data.path.")
    validation_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of data.path kept for validation, by class; unused with validation_path."
    )
    test_path: str | None = Field(None, description="Test data, scored once, at the end.")
    columns: Strings | None = Field(None, description="Column names of a table without a header.")
    text_column: str = Field("text", description="Column (or key) of a table of texts that holds the text.")
    label_column: str = Field("label", description="Column (or key) of a table of texts that holds the label.")
    multi_label: bool | None = Field(
        None,
        description="Whether a text may have several labels or none; default: where a JSONL file has lists of labels "
        "or a table has labels parted by `|`.",
    )
    max_text_chars: int = Field(100_000, ge=1, description="Longer texts, in characters, count as corrupt.")
    min_image_size: int = Field(1, ge=1, description="Smallest height and width in pixels; `validate` reports less.")
    max_image_pixels: int = Field(64_000_000, ge=1, description="Larger images count as corrupt.")
    balance_tolerance: float = Field(
        0.2,
        ge=0,
        description="`validate` warns where a class differs from the mean class size by more than this share.",
    )
    max_corrupt_fraction: float = Field(
        0.01, ge=0, le=1, description="Share of unreadable samples above which training stops."
    )
    cache: Literal["auto", "memory", "none"] = Field(
        "auto", description="Keep decoded and resized samples in memory: where they fit (auto), always, never."
    )


class AugmentationConfig(_Section):
    """Random changes to training images; every one is a function of (seed, epoch, sample)."""

    horizontal_flip: bool = Field(False, description="Mirror left to right, half of the time.")
    vertical_flip: bool = Field(False, description="Mirror top to bottom, half of the time.")
    quarter_turns: bool = Field(False, description="Turn by 0, 90, 180 or 270 degrees; wants a square image_size.")
    rotation: float = Field(0.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    zoom: float = Field(0.0, ge=0, lt=1, description="Largest change of scale, as a share, either way.")
    translation: float = Field(0.0, ge=0, lt=1, description="Largest shift, as a share of height and width.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Largest change of contrast, as a share, either way.")
    brightness: float = Field(0.0, ge=0, lt=1, description="Largest change of brightness, as a share of full scale.")


class PreprocessingConfig(_Section):
    """Keras layers that travel inside the model."""

    image_size: Pair = Field((32, 32), description="[height, width] of the model's input in pixels.")
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch", description="How other aspect ratios are brought to image_size."
    )
    interpolation: Literal["bilinear", "nearest", "bicubic"] = Field("bilinear", description="Resize method.")
    antialias: bool = Field(False, description="Low-pass filter when shrinking.")
    normalization: Literal["auto", "imagenet", "adapt", "none", "fixed"] = Field(
        "auto",
        description="Mean and standard deviation per channel: those of the pretrained weights, or else adapted to the "
        "training data (auto); ImageNet's; adapted; none (values 0..1); fixed (preprocessing.mean and .std).",
    )
    mean: Floats | None = Field(None, description="Per channel, on a scale of 0..1; with normalization=fixed.")
    std: Floats | None = Field(None, description="Per channel, on a scale of 0..1; with normalization=fixed.")
    augmentation: AugmentationConfig = AugmentationConfig()
    tokenizer: str | None = Field(
        None,
        description="Of texts: a folder of `python -m tfpipe.data train-tokenizer`, or a keras-nlp preset; default: "
        "that of model.preset, or else one trained on the training texts.",
    )
    tokenizer_kind: Literal["wordpiece", "bpe", "sentencepiece"] = Field(
        "wordpiece", description="Kind of a tokenizer that is trained on the training texts."
    )
    vocabulary_size: int = Field(8000, ge=10, description="Largest vocabulary of a tokenizer that is trained.")
    lowercase: bool = Field(False, description="A tokenizer that is trained makes no difference between cases.")
    max_length: int = Field(
        128, ge=3, description="Tokens of a text that the model sees at once, the first and the last special one too."
    )


class ModelConfig(_Section):
    """Which network."""

    name: str = Field("small_cnn", description="A name of tfpipe.models, or package.module:function.")
    weights: str = Field(
        "random", description="`random`, `imagenet` (fetched by Keras), or a local .keras or .weights.h5 file."
    )
    preset: str | None = Field(
        None, description="bert, roberta and distilbert: pretrained, a keras-nlp preset's name or local folder."
    )
    num_layers: int = Field(2, ge=1, description="Transformer layers where there is no preset.")
    width: int = Field(
        128, ge=1, description="Of the embeddings of a model of texts, and of a transformer's layers, without a preset."
    )
    num_heads: int = Field(2, ge=1, description="Attention heads where there is no preset.")
    feed_forward_width: int | None = Field(
        None, ge=1, description="Between a transformer layer's two dense ones, without a preset; default: 4 * width."
    )
    freeze_embeddings: bool = Field(False, description="Leave the embeddings of a model of texts as they are.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the head.")
    freeze_backbone: bool = Field(False, description="Train the head alone until unfreeze_epochs say otherwise.")
    unfreeze_epochs: Ints = Field(
        (),
        description="Epochs (from 0) at which a further equal share of the backbone, from the head down, "
        "starts to train; the last one frees all.",
    )


class PruningConfig(_Section):
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


class TrainingConfig(_Section):
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


class TrackingConfig(_Section):
    """The MLflow run and the registry."""

    uri: str = Field("sqlite:///mlflow.db", description="Tracking store and registry.")
    experiment: str = Field("tfpipe", description="MLflow experiment.")
    registered_model: str | None = Field(None, description="Name in the registry; none: logged, not registered.")
    tags: dict[str, str] = Field({}, description="Tags of the run.")
    min_metrics: dict[str, float] = Field(
        {}, description="Least value of final metrics, e.g. {val_accuracy: 0.9}; missed: not registered, exit code 3."
    )
    retry_s: float = Field(60.0, ge=0, description="Seconds for which a server that is away is tried again.")


class ConversionConfig(_Section):
    """`python -m tfpipe.convert`."""

    opset: int = Field(
        18,
        ge=17,
        le=23,
        description="ONNX operator set; beyond 18, the newest that is written, the graph is converted.",
    )
    max_metric_drop: float = Field(
        0.02,
        ge=0,
        le=1,
        # The second is what runs of version 0.1 wrote into their config.yaml.
        validation_alias=AliasChoices("max_metric_drop", "max_accuracy_drop"),
        description="Largest loss of the task's metric against fp32.",
    )
    max_class_drop: float = Field(
        0.2, ge=0, le=1, description="Largest loss of one class's recall against fp32; none may vanish."
    )
    min_size_reduction: float | None = Field(
        None, ge=0, lt=1, description="Least share of fp32's size saved; null: 0.5 for int8, 0.49 for fp16."
    )
    max_p95_ms: float | None = Field(
        None, gt=0, description="Largest 95th percentile of latency of one row in milliseconds; null: no limit."
    )
    min_speedup: float | None = Field(
        None, gt=0, description="Least median speed of one row against fp32 on ONNX Runtime's CPU provider; null: none."
    )
    calibration_samples: int = Field(
        200, ge=1, description="Training samples that set INT8 ranges; training keeps 200."
    )
    calibration_method: Literal["auto", "minmax", "entropy", "percentile", "dynamic"] = Field(
        "auto",
        description="How INT8 ranges are set; auto: minmax, and where that misses max_metric_drop, percentile with "
        "depthwise convolutions kept in float32, of texts percentile and then dynamic; dynamic: by each batch.",
    )
    calibration_path: str | None = Field(
        None,
        description="Samples that set INT8 ranges, in any form of data.path, in place of those that training kept; of "
        "task tensor, an .npz file with an array of samples for each input.",
    )
    features: bool = Field(
        False, description="Add the vector before the head as a second output, `features` (batch, units)."
    )
    per_channel: bool = Field(True, description="One INT8 scale per output channel of a weight.")
    activations: Literal["uint8", "int8"] = Field(
        "uint8", description="INT8 activations; uint8 is faster on x86, int8 on ARM."
    )
    reduce_range: bool | None = Field(
        None, description="INT8 weights of 7 bits, for x86 without VNNI; null: where this machine has none."
    )
    weight_only: Literal["none", "int4", "int8"] = Field(
        "none",
        description="A further variant, `int4` or `int8_weights`, whose products have weights of 4 or 8 bits; for "
        "transformers. Made in an environment of its own: scripts/weight_only_env.sh.",
    )
    weight_only_python: str | None = Field(
        None, description="Python of that environment; null: .venvs/weight-only/bin/python."
    )
    http_hop: bool = Field(
        True, description="Start the service on the finished bundle and compare its answers, for the certificate."
    )
    golden_samples: int = Field(8, ge=1, description="Raw inputs with Keras's answers that travel in the bundle.")
    latency_runs: int = Field(50, ge=1, description="Timed runs per batch size; percentiles of them are reported.")


class Config(_Section):
    """One run."""

    task: Literal["image_classification", "text_classification", "token_classification"] = Field(
        "image_classification", description="What is learnt."
    )
    data: DataConfig
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    conversion: ConversionConfig = ConversionConfig()
    output_dir: str = Field(
        "runs/${now:%Y%m%d-%H%M%S}", description="Where the run writes; `${now:FORMAT}` gives the time."
    )


# (keys that take part, whether the combination is impossible, what was expected)
COMBINATIONS: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str], ...] = (
    (
        ("preprocessing.interpolation", "preprocessing.antialias"),
        lambda c: c.preprocessing.interpolation == "bicubic" and not c.preprocessing.antialias,
        "bicubic goes with antialias=true (without it the ONNX form cannot shrink an image)",
    ),
    (
        ("preprocessing.interpolation", "preprocessing.antialias"),
        lambda c: c.preprocessing.interpolation == "nearest" and c.preprocessing.antialias,
        "nearest goes with antialias=false",
    ),
    (
        ("preprocessing.normalization", "preprocessing.mean", "preprocessing.std"),
        lambda c: (
            (c.preprocessing.normalization == "fixed")
            != (c.preprocessing.mean is not None and c.preprocessing.std is not None)
            or (c.preprocessing.mean is None) != (c.preprocessing.std is None)
        ),
        "mean and std are given with normalization=fixed, and only then",
    ),
    (
        ("preprocessing.mean", "preprocessing.std"),
        lambda c: (
            any(len(v) not in (1, 3) for v in (c.preprocessing.mean, c.preprocessing.std) if v is not None)
            or any(v <= 0 for v in c.preprocessing.std or ())
        ),
        "1 or 3 numbers each, std above 0",
    ),
    (
        ("preprocessing.image_size",),
        lambda c: min(c.preprocessing.image_size) < 1,
        "[height, width], both at least 1",
    ),
    (
        ("preprocessing.image_size", "preprocessing.augmentation.quarter_turns"),
        lambda c: (
            c.preprocessing.augmentation.quarter_turns
            and c.preprocessing.image_size[0] != c.preprocessing.image_size[1]
        ),
        "quarter_turns goes with a square image_size",
    ),
    (
        ("training.batch_size", "training.accumulation_steps"),
        lambda c: c.training.accumulation_steps > c.training.batch_size,
        "accumulation_steps is at most batch_size",
    ),
    (
        ("training.gradient_reduction", "training.gradient_compression"),
        lambda c: c.training.gradient_reduction == "adasum" and c.training.gradient_compression != "none",
        "gradient_compression goes with gradient_reduction=mean",
    ),
    (
        ("training.sync_batch_norm", "training.accumulation_steps"),
        lambda c: c.training.sync_batch_norm and c.training.accumulation_steps > 1,
        "sync_batch_norm goes with accumulation_steps=1 (micro-batches of different workers do not meet)",
    ),
    (
        ("training.timeline", "training.elastic"),
        lambda c: c.training.timeline is not None and c.training.elastic,
        "timeline goes with elastic=false: Horovod begins the file anew when workers change",
    ),
    (
        ("training.warmup_epochs", "training.epochs"),
        lambda c: c.training.warmup_epochs > c.training.epochs,
        "warmup_epochs is at most epochs",
    ),
    (
        ("training.optimizer", "training.weight_decay"),
        lambda c: c.training.optimizer == "adam" and c.training.weight_decay > 0,
        "weight_decay goes with optimizer=adamw or sgd",
    ),
    (
        ("training.loss", "training.label_smoothing"),
        lambda c: c.training.loss is not None and c.training.label_smoothing > 0,
        "label_smoothing goes with the built-in loss",
    ),
    (
        ("training.overfit_batches", "training.limit_train_batches", "training.limit_validation_batches"),
        lambda c: (
            c.training.overfit_batches is not None
            and (c.training.limit_train_batches is not None or c.training.limit_validation_batches is not None)
        ),
        "overfit_batches goes without limits: it is one for training and for validation",
    ),
    (
        ("training.rematerialization", "training.sync_batch_norm"),
        lambda c: c.training.rematerialization != "none" and c.training.sync_batch_norm,
        "rematerialization goes without sync_batch_norm, whose statistics would be sent twice",
    ),
    (
        ("training.class_weights",),
        lambda c: bool(c.training.class_weights) and not any(c.training.class_weights.values()),
        "at least one weight is above 0",
    ),
    (
        ("training.pruning.start", "training.pruning.end"),
        lambda c: c.training.pruning.start >= c.training.pruning.end,
        "start is below end",
    ),
    (
        ("training.pruning.sparsity", "model.freeze_backbone"),
        lambda c: c.training.pruning.sparsity > 0 and c.model.freeze_backbone,
        "pruning goes with freeze_backbone=false: weights that do not train cannot make up for those that are pruned",
    ),
    (
        ("model.freeze_backbone", "model.unfreeze_epochs"),
        lambda c: bool(c.model.unfreeze_epochs) and not c.model.freeze_backbone,
        "unfreeze_epochs goes with freeze_backbone=true",
    ),
    (
        ("model.unfreeze_epochs",),
        lambda c: list(c.model.unfreeze_epochs) != sorted({e for e in c.model.unfreeze_epochs if e > 0}),
        "increasing epochs, from 1",
    ),
    (
        ("training.monitor", "training.early_stopping_epochs", "data.validation_path", "data.validation_fraction"),
        lambda c: (
            c.training.early_stopping_epochs is not None
            and c.training.monitor.startswith("val_")
            and c.data.validation_path is None
            and c.data.validation_fraction == 0
        ),
        "a val_* monitor goes with validation data",
    ),
    (
        ("tracking.min_metrics", "data.test_path"),
        lambda c: any(name.startswith("test_") for name in c.tracking.min_metrics) and c.data.test_path is None,
        "test_* criteria go with data.test_path",
    ),
)
