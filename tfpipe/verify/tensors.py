"""The hops of a bundle of task `tensor`, measured on its golden samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.core.bundle import Bundle
from tfpipe.core.certificate import Hop
from tfpipe.core.golden_tensors import GoldenTensors
from tfpipe.core.parity import BOUNDS
from tfpipe.inference.tensors import open_tensors, tensor_hop


def tensor_hops(bundle: Bundle, *, threads: int | None = None) -> Iterator[Hop]:
    """Every variant; no TensorFlow.

    Raises:
        BundleError: It has no golden samples, or another task.
    """
    variants = bundle.manifest.variants
    for name in sorted(variants, key=lambda one: -variants[one].size_bytes):
        yield open_tensors(bundle, precision=name, provider="cpu", threads=threads).replay_golden()


def saved_model_hop(folder: Path, samples: Sequence[GoldenTensors]) -> Hop:
    """The signature `serving_default`, loaded as TensorFlow Serving loads it.

    Args:
        folder: With its version number.
        samples: With the answers that are expected.
    """
    # TensorFlow takes seconds to import, and may not be there.
    import tensorflow as tf

    from tfpipe.verify.saved_model import load_saved_model

    # Held: a signature does not keep the variables alive.
    loaded: Any = load_saved_model(folder)
    answers = []
    for sample in samples:
        given = {name: tf.constant(array) for name, array in sample.inputs.items()}
        answered = loaded.signatures["serving_default"](**given)
        answers.append({name: np.asarray(answer) for name, answer in answered.items()})
    title = "tensors -> SavedModel serving_default"
    references = [sample.outputs for sample in samples]
    return tensor_hop("saved_model.serving_default", title, answers, references, BOUNDS["fp32"], is_exact=True)
