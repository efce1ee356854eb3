"""A model by any name that tfpipe gives it, ready to score samples: model.keras, a bundle, or models:/..."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.core.bundle import MANIFEST, file_sha256, open_bundle
from tfpipe.core.errors import ConfigError, InferenceError
from tfpipe.core.signature import Array
from tfpipe.inference.images import ImageInference
from tfpipe.inference.interface import Inference, Prepared, answer_of, in_runs
from tfpipe.inference.opening import open_inference, open_model

CACHE_DIR = Path("~/.cache/tfpipe")


class Scorer(ABC):
    """Samples -> answers.

    Attributes:
        inference: What stands before the model and after it.
        identity: What the service says of itself: model_name, model_version, precision, provider, bundle.
    """

    inference: Inference
    identity: dict[str, Any]

    @abstractmethod
    def run(self, batch: Array) -> Array:
        """Rows as `Inference.batch` gives them -> probabilities, (rows, classes) or (rows, tokens, tags)."""

    def probabilities(self, prepared: Sequence[Prepared], *, batch_size: int = 32) -> Iterator[list[Array]]:
        """The probabilities of each prepared sample's rows, in order; see `Inference.cut`.

        Args:
            prepared: By `inference.prepare`.
            batch_size: Most rows in one run of the model.
        """
        rows = [row for one in prepared for row in one.rows]
        answered: dict[int, Array] = {}
        for positions in in_runs(self.inference, rows, batch_size):
            together = [rows[position] for position in positions]
            batch = self.run(self.inference.batch(together))
            answered |= zip(positions, self.inference.cut(batch, together), strict=True)
        ordered = (answered[position] for position in range(len(rows)))
        for one in prepared:
            yield [next(ordered) for _ in one.rows]

    def answers(
        self, prepared: Sequence[Prepared], *, batch_size: int = 32
    ) -> Iterator[dict[str, Any] | InferenceError]:
        """The answer of each prepared sample, in order, or why there is none; see `probabilities`."""
        for one, rows in zip(prepared, self.probabilities(prepared, batch_size=batch_size), strict=True):
            try:
                yield answer_of(one, rows)
            except InferenceError as error:
                yield error


class BundleScorer(Scorer):
    """A bundle on ONNX Runtime; no TensorFlow.

    Args:
        folder: The bundle.
        precision: A variant's name, or "auto" for the bundle's default.

    Raises:
        BundleError: The bundle is incomplete, changed, or lacks the precision.
    """

    def __init__(self, folder: Path, *, precision: str = "auto") -> None:
        bundle = open_bundle(folder)
        variant = bundle.variant(precision)
        self.inference = open_inference(bundle)
        self._model = open_model(bundle, variant)
        self.identity = {
            "model_name": bundle.manifest.model_name,
            "model_version": bundle.manifest.model_version,
            "precision": variant.precision,
            "provider": self._model.provider,
            "bundle": bundle.short_id,
        }

    def run(self, batch: Array) -> Array:
        """See `Scorer.run`."""
        return self._model.run({"input": batch})["probabilities"]


class KerasScorer(Scorer):
    """A model.keras on TensorFlow; of texts, with what training wrote beside it.

    Args:
        path: The file.
        name: Registered name, where it has one.
        version: Registered version, where it has one.

    Raises:
        ConfigError: Not a file that tfpipe saved.
        BundleError: A tokenizer that is missing or changed.
    """

    def __init__(self, path: Path, *, name: str | None = None, version: str | None = None) -> None:
        # Only here: a bundle is scored without TensorFlow.
        from tfpipe.models.assembly import TextParts, load_model

        parts = load_model(path)
        self.inference, self._score = _open_text(parts) if isinstance(parts, TextParts) else _open_image(parts)
        self.identity = {
            "model_name": name or path.resolve().parent.name,
            "model_version": version,
            "precision": "keras",
            "provider": "tensorflow",
            "bundle": file_sha256(path)[:12],
        }

    def run(self, batch: Array) -> Array:
        """See `Scorer.run`."""
        return np.asarray(self._score(batch))


def open_scorer(
    model: str, *, precision: str = "auto", tracking_uri: str | None = None, cache_dir: Path = CACHE_DIR
) -> Scorer:
    """Open a model by path or registry URI.

    Args:
        model: A model.keras, an output_dir, a bundle, or models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME.
            A registered version is scored by its bundle where it has one.
        precision: Of a bundle: a variant's name, or "auto".
        tracking_uri: Of the registry; None: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db.
        cache_dir: Where downloads are kept.

    Raises:
        ConfigError: Nothing there that can be scored.
        RegistryError: Unknown model, version or alias.
        BundleError: A bundle that is incomplete or changed.
    """
    cache = cache_dir.expanduser()
    if model.startswith("models:"):
        # Only here: a file is scored without MLflow, which takes seconds to import.
        from tfpipe.registry import Registry

        registry = Registry(tracking_uri)
        version = registry.resolve(model)
        if version.bundle_sha256 is not None:
            return BundleScorer(registry.download_bundle(version, cache), precision=precision)
        folder = cache / "models" / version.run_id
        if not folder.exists():
            registry.download_model(version, folder)
        _refuse_precision(precision, model)
        return KerasScorer(folder / "model.keras", name=version.name, version=version.version)
    path = Path(model)
    if (path / MANIFEST).is_file():
        return BundleScorer(path, precision=precision)
    keras_file = path / "model.keras" if path.is_dir() else path
    if not keras_file.is_file():
        raise ConfigError(f"--model: expected a model.keras, a bundle or models:/..., found none at {model!r}.")
    _refuse_precision(precision, model)
    return KerasScorer(keras_file)


def _refuse_precision(precision: str, model: str) -> None:
    if precision != "auto":
        raise ConfigError(f"--precision: {model!r} is a Keras model, which has none to choose; convert it first.")


def _open_image(parts: Any) -> tuple[Inference, Any]:
    import tensorflow as tf

    row = tf.function(
        lambda image: parts.preprocessing.rows(image[None])[0],
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
        autograph=False,
    )
    height, width = parts.preprocessing.resize.height, parts.preprocessing.resize.width
    score = tf.function(
        lambda rows: parts.probabilities(parts.network(rows, training=False)),
        input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)],
        autograph=False,
    )
    return ImageInference(partial(_as_array, row), parts.labels), score


def _as_array(function: Any, pixels: Array) -> Array:
    return np.asarray(function(pixels))


def _open_text(parts: Any) -> tuple[Inference, Any]:
    import tensorflow as tf

    score = tf.function(
        lambda rows: parts.model(rows, training=False),
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
        autograph=False,
    )
    return parts.inference(), score
