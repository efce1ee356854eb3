"""Hypothesis strategies that several tests share."""

import string
from typing import Any

from hypothesis import strategies as st

from tfpipe.config import parse_config
from tfpipe.settings import Config

_WORDS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=20)
_TEXTS = st.text(max_size=40)
_FRACTIONS = st.floats(0, 1, exclude_max=True)
_POSITIVE = st.floats(1e-12, 1e12)
_COUNTS = st.integers(1, 10**6)


def _data() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "path": _TEXTS,
            "validation_path": st.none() | _TEXTS,
            "validation_fraction": _FRACTIONS,
            "test_path": st.none() | _TEXTS,
            "columns": st.none() | st.lists(_TEXTS, max_size=4),
            "text_column": _TEXTS,
            "label_column": _TEXTS,
            "multi_label": st.none() | st.booleans(),
            "max_text_chars": _COUNTS,
            "min_image_size": _COUNTS,
            "max_image_pixels": _COUNTS,
            "balance_tolerance": st.floats(0, 10),
            "max_corrupt_fraction": st.floats(0, 1),
            "cache": st.sampled_from(["auto", "memory", "none"]),
        }
    )


def _preprocessing() -> st.SearchStrategy[dict[str, Any]]:
    resampling = st.sampled_from([("bilinear", False), ("bilinear", True), ("nearest", False), ("bicubic", True)])
    channels = st.sampled_from([1, 3]).flatmap(lambda count: st.lists(_POSITIVE, min_size=count, max_size=count))
    fixed = st.tuples(st.just("fixed"), channels, channels)
    given = st.tuples(st.sampled_from(["auto", "imagenet", "adapt", "none"]), st.none(), st.none())
    augmentation = st.fixed_dictionaries(
        {
            "horizontal_flip": st.booleans(),
            "vertical_flip": st.booleans(),
            "quarter_turns": st.booleans(),
            "rotation": st.floats(0, 180),
            **dict.fromkeys(("zoom", "translation", "contrast", "brightness"), _FRACTIONS),
        }
    )

    def section(parts: Any) -> dict[str, Any]:
        (height, width), (interpolation, antialias), (normalization, mean, std), resize, augment = parts
        return {
            "image_size": [height, height if augment["quarter_turns"] else width],
            "resize": resize,
            "interpolation": interpolation,
            "antialias": antialias,
            "normalization": normalization,
            "mean": mean,
            "std": std,
            "augmentation": augment,
        }

    sizes = st.tuples(_COUNTS, _COUNTS)
    resizes = st.sampled_from(["stretch", "crop", "pad"])
    return st.tuples(sizes, resampling, fixed | given, resizes, augmentation).map(section)


def _model() -> st.SearchStrategy[dict[str, Any]]:
    epochs = st.lists(st.integers(1, 1000), max_size=4, unique=True).map(sorted)
    frozen = st.tuples(st.just(True), epochs) | st.tuples(st.just(False), st.just([]))
    return st.tuples(_TEXTS, _TEXTS, _FRACTIONS, frozen).map(
        lambda parts: {
            "name": parts[0],
            "weights": parts[1],
            "dropout": parts[2],
            "freeze_backbone": parts[3][0],
            "unfreeze_epochs": parts[3][1],
        }
    )


def _training() -> st.SearchStrategy[dict[str, Any]]:
    def consistent(values: dict[str, Any]) -> dict[str, Any]:
        return {
            **values,
            "accumulation_steps": min(values["accumulation_steps"], values["batch_size"]),
            "warmup_epochs": min(values["warmup_epochs"], float(values["epochs"])),
            "weight_decay": 0.0 if values["optimizer"] == "adam" else values["weight_decay"],
        }

    return st.fixed_dictionaries(
        {
            "epochs": _COUNTS,
            "batch_size": _COUNTS,
            "reference_batch_size": st.none() | _COUNTS,
            "accumulation_steps": st.integers(1, 8),
            "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
            "learning_rate": _POSITIVE,
            "momentum": _FRACTIONS,
            "weight_decay": st.floats(0, 10),
            "schedule": st.sampled_from(["constant", "cosine", "cosine_restarts"]),
            "warmup_epochs": st.floats(0, 100),
            "restart_epochs": _POSITIVE,
            "final_learning_rate_fraction": st.floats(0, 1),
            "label_smoothing": _FRACTIONS,
            "pruning": st.fixed_dictionaries(
                {
                    "sparsity": st.floats(0, 1, exclude_max=True),
                    "start": st.floats(0, 0.5, exclude_max=True),
                    "end": st.floats(0.5, 1),
                    "every_steps": _COUNTS,
                }
            ),
            "gradient_clip_norm": st.none() | _POSITIVE,
            "precision": st.sampled_from(["float32", "mixed_bfloat16", "mixed_float16", "auto"]),
            "allow_slow_precision": st.booleans(),
            "monitor": _WORDS.map(lambda word: f"train_{word}"),
            "early_stopping_epochs": st.none() | _COUNTS,
            "checkpoint_steps": st.none() | _COUNTS,
            "keep_checkpoints": _COUNTS,
            "seed": st.integers(0, 2**31 - 1),
            "deterministic": st.booleans(),
            "placement": st.sampled_from(["auto", "none"]),
            "threads": st.none() | st.integers(1, 64),
        }
    ).map(consistent)


def _tracking(uri: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "uri": st.just(uri),
            "experiment": _WORDS,
            "registered_model": st.none() | _WORDS,
            "tags": st.dictionaries(_WORDS.filter(lambda word: word.strip(".")), _TEXTS, max_size=3),
            "min_metrics": st.dictionaries(_WORDS.map(lambda word: f"val_{word}"), st.floats(0, 1), max_size=3),
            "retry_s": st.floats(0, 10),
        }
    )


def _conversion() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "opset": st.integers(17, 18),
            "max_metric_drop": st.floats(0, 1),
            "calibration_samples": _COUNTS,
            "calibration_method": st.sampled_from(["auto", "minmax", "entropy", "percentile", "dynamic"]),
            "activations": st.sampled_from(["uint8", "int8"]),
            "reduce_range": st.none() | st.booleans(),
            "per_channel": st.booleans(),
            "golden_samples": _COUNTS,
            "latency_runs": _COUNTS,
        }
    )


def configs(tracking_uri: str = "sqlite:///mlflow.db") -> st.SearchStrategy[Config]:
    """Valid configurations over all keys.

    Args:
        tracking_uri: Their `tracking.uri`, the one key that is not drawn.
    """

    def consistent(values: dict[str, Any]) -> dict[str, Any]:
        if values["model"]["freeze_backbone"]:
            values["training"]["pruning"] = {"sparsity": 0.0}
        return values

    return st.fixed_dictionaries(
        {
            "task": st.just("image_classification"),
            "data": _data(),
            "preprocessing": _preprocessing(),
            "model": _model(),
            "training": _training(),
            "tracking": _tracking(tracking_uri),
            "conversion": _conversion(),
            "output_dir": _WORDS,
        }
    ).map(lambda values: parse_config(consistent(values), where="drawn"))
