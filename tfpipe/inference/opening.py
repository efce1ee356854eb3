"""From a bundle to what stands around its model."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from tfpipe.core.bundle import Bundle, Variant
from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.core.signature import Array
from tfpipe.decode import MAX_IMAGE_PIXELS
from tfpipe.inference.images import ImageInference
from tfpipe.inference.interface import Inference
from tfpipe.inference.texts import MAX_TEXT_CHARS, TEXT_TASKS, TextInference
from tfpipe.ort import OnnxModel, open_session
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.tokenizer import load_tokenizer

TASKS = ("image_classification", *TEXT_TASKS)
PREPROCESS_FILE = "preprocess.onnx"
SETTINGS_FILE = "preprocessing.json"


def open_inference(
    bundle: Bundle,
    *,
    threads: int | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    max_text_chars: int = MAX_TEXT_CHARS,
) -> Inference:
    """What the bundle's task does before the model and after it.

    Args:
        bundle: Checked.
        threads: Threads inside one run of the preprocessing graph of images; None means one a core.
        max_image_pixels: Larger images are refused.
        max_text_chars: Longer texts are refused.

    Raises:
        BundleError: A task that is not known here, or a tokenizer or graph that is missing or changed.
    """
    manifest = bundle.manifest
    if manifest.task not in TASKS:
        hint = " Open it with tfpipe.inference.tensors." if manifest.task == "tensor" else ""
        raise BundleError(f"{bundle.folder}: expected task {', '.join(TASKS)}, received {manifest.task!r}.{hint}")
    if manifest.task not in TEXT_TASKS:
        # On the CPU: images of every size would make a GPU compile and copy anew for each.
        session = open_session(bundle.path(PREPROCESS_FILE), provider="cpu", threads=threads)
        return ImageInference(partial(row_of_image, session), manifest.labels, max_pixels=max_image_pixels)
    try:
        return TextInference(
            load_tokenizer(bundle.path(tokenizers.FOLDER)),
            task=manifest.task,
            labels=manifest.labels,
            multi_label=manifest.multi_label,
            max_length=_max_length(bundle),
            max_chars=max_text_chars,
        )
    except ConfigError as error:
        raise BundleError(f"{bundle.folder}: expected a model of texts; {error}") from error


def open_model(
    bundle: Bundle,
    variant: Variant,
    *,
    provider: str = "auto",
    arithmetic: str = "float32",
    threads: int | None = None,
    engines_dir: Path | None = None,
) -> OnnxModel:
    """The session of a variant, set as its recipe wants it.

    Args:
        bundle: Checked.
        variant: One of its variants.
        provider: See `open_session`.
        arithmetic: See `open_session`.
        threads: Threads inside one run; None means one a core.
        engines_dir: Where TensorRT keeps its engines; None: nowhere.

    Raises:
        BundleError: The file is no model that ONNX Runtime can load.
        ConfigError: The provider is not there.
    """
    disabled = variant.recipe.get("disabled_optimizers", ())
    return open_session(
        bundle.path(variant.file),
        provider=provider,
        arithmetic=arithmetic,
        threads=threads,
        disabled_optimizers=disabled,
        engines_dir=engines_dir,
    )


def row_of_image(session: OnnxModel, pixels: Array) -> Array:
    """A row by a preprocessing graph: (height, width, 3) uint8 -> (height, width, channels) float32.

    Raises:
        InferenceError: The graph failed.
    """
    name = session.output_names[0]
    return session.run({session.input_names[0]: pixels}, [name])[name]


def _max_length(bundle: Bundle) -> int:
    path = bundle.path(SETTINGS_FILE)
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return int(values["config"]["max_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: expected the tokens of a row as config.max_length; {error!r}.") from error
