"""Keras itself, asked again."""

import tempfile
from pathlib import Path

from tfpipe.core.certificate import Hop, compare
from tfpipe.core.parity import BOUNDS
from tfpipe.verify.golden import GoldenSamples


def keras_hop(model: str, golden: GoldenSamples) -> Hop:
    """Have the trained model answer the golden samples, and compare with what the bundle holds.

    Args:
        model: "models:/NAME/VERSION", or a path that `tfpipe.convert` takes.
        golden: Of the bundle.

    Raises:
        ConfigError: There is no such model.
        RegistryError: There is no such version.
    """
    # TensorFlow takes seconds to import, and only this hop needs Keras.
    from tfpipe.convert.conversion import open_conversion
    from tfpipe.convert.trained import RawSample, fetch, open_trained
    from tfpipe.registry import Registry

    with tempfile.TemporaryDirectory(prefix="tfpipe-verify-") as scratch:
        folder, version = fetch(model, Registry(), None, Path(scratch) / "model")
        trained = open_trained(folder, version, ())
        samples = [RawSample(s.golden.file, s.content, s.decoded) for s in golden.samples]
        answers = open_conversion(trained).keras_answers(samples)
    return compare("keras", "file -> Keras", answers, golden.expected, BOUNDS["fp32"])
