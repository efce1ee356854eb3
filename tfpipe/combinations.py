"""Settings that do not go together."""

from collections.abc import Callable

from tfpipe.sections import are_given_as_asked, are_of_channels
from tfpipe.settings import Config

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
        lambda c: not are_given_as_asked(c.preprocessing.normalization, c.preprocessing.mean, c.preprocessing.std),
        "mean and std are given with normalization=fixed, and only then",
    ),
    (
        ("preprocessing.mean", "preprocessing.std"),
        lambda c: not are_of_channels(c.preprocessing.mean, c.preprocessing.std),
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
