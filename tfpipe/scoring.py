"""A model by any name that tfpipe gives it, ready to score decoded images: model.keras, a bundle, or models:/..."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfpipe.core.bundle import MANIFEST, file_sha256, open_bundle
from tfpipe.core.errors import ConfigError
from tfpipe.ort import open_session

CACHE_DIR = Path("~/.cache/tfpipe")


class Scorer(Protocol):
    """Images -> probabilities.

    Attributes:
        labels: Class names in the order of the probabilities.
        identity: What the service says of itself: model_name, model_version, precision, provider, bundle.
    """

    labels: tuple[str, ...]
    identity: dict[str, Any]

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Score decoded images.

        Args:
            images: n arrays (height, width, 3) uint8, sizes may differ.

        Returns:
            (n, classes) float32.
        """
        ...


class BundleScorer:
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
        self._preprocess = open_session(bundle.path("preprocess.onnx"))
        self._model = open_session(bundle.path(variant.file))
        self.labels = bundle.manifest.labels
        self.identity = {
            "model_name": bundle.manifest.model_name,
            "model_version": bundle.manifest.model_version,
            "precision": variant.precision,
            "provider": self._model.provider,
            "bundle": bundle.short_id,
        }

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See `Scorer`."""
        rows = np.stack([self._preprocess.run({"image": image})["input"] for image in images])
        return self._model.run({"input": rows})["probabilities"]


class KerasScorer:
    """A model.keras on TensorFlow.

    Args:
        path: The file.
        name: Registered name, where it has one.
        version: Registered version, where it has one.

    Raises:
        ConfigError: Not a file that tfpipe saved.
    """

    def __init__(self, path: Path, *, name: str | None = None, version: str | None = None) -> None:
        # Only here: a bundle is scored without TensorFlow.
        import tensorflow as tf

        from tfpipe.models.assembly import load_image_model

        parts = load_image_model(path)
        self.labels = parts.labels
        self.identity = {
            "model_name": name or path.resolve().parent.name,
            "model_version": version,
            "precision": "keras",
            "provider": "tensorflow",
            "bundle": file_sha256(path)[:12],
        }
        head = parts.model.get_layer("probabilities")
        self._row = tf.function(
            lambda image: parts.preprocessing.rows(image[None])[0],
            input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
        )
        height, width = parts.preprocessing.resize.height, parts.preprocessing.resize.width
        self._score = tf.function(
            lambda rows: head(parts.network(rows, training=False)),
            input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)],
        )

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See `Scorer`."""
        rows = np.stack([self._row(image).numpy() for image in images])
        return np.asarray(self._score(rows))


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
