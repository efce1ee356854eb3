"""What differs between images and texts when a model is converted.

raw file ─▶ preprocessing ─▶ rows ─▶ model graph ─▶ probabilities: `Conversion` has the parts of this road that a model
of its kind takes, as they are written into the bundle.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx

from tfpipe.convert.finite import assert_finite_weights
from tfpipe.convert.quantize import Feed
from tfpipe.convert.recipe import Operators
from tfpipe.convert.trained import RawSample, TrainedModel
from tfpipe.core.certificate import Hop
from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.data.sources import Source
from tfpipe.models.assembly import ImageParts, TextParts
from tfpipe.ort import OnnxModel


class Examples(Protocol):
    """Labelled samples as rows, as the service would make them.

    Attributes:
        first_error: What was wrong with the first sample that could not be read; "" where all could.
    """

    @property
    def first_error(self) -> str: ...

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[tuple[Array, Array, int]]:
        """(input of the model, labels as the task has them, samples tried) of each batch.

        Samples that cannot be read are left out of the first two.
        """
        ...


class Comparison(Protocol):
    """Compares converted forms with Keras on raw files; every `check_*` raises GateError beyond its bound.

    Attributes:
        samples: All files compared.
        rows: Keras's own row of each.
        row_scale: Brings rows to a scale of 0..1; None where they are compared as they are.
        probabilities: Keras's own answer to each, float32.
        hops: What was measured so far.
        generated: Positions of samples made here that travel in the bundle too, beside golden ones of training.
    """

    @property
    def samples(self) -> tuple[RawSample, ...]: ...

    @property
    def rows(self) -> Sequence[Array]: ...

    @property
    def row_scale(self) -> Array | None: ...

    @property
    def probabilities(self) -> Sequence[Array]: ...

    @property
    def hops(self) -> Sequence[Hop]: ...

    @property
    def generated(self) -> Sequence[int]: ...

    def note(self, hop: Hop) -> None:
        """Record a hop; GateError where it is beyond its bound."""
        ...

    def check_preprocessing(self) -> Sequence[Array]:
        """Raw samples -> the rows that the bundle's preprocessing makes, one a sample."""
        ...

    def check_model(self, precision: str, model: OnnxModel, rows: Sequence[Array]) -> Sequence[Array]:
        """Rows -> probabilities, and the whole chain from the file; returns the answers of the whole chain."""
        ...

    def check_saved_model(self, loaded: Any) -> None:
        """Every signature of a SavedModel, as TensorFlow Serving loads it; see `tfpipe.verify.saved_model`."""
        ...


class Conversion(Protocol):
    """A trained model on its way into a bundle.

    Attributes:
        input: Of the model graph.
        output: Of the model graph.
        preprocess_inputs: What the preprocessing takes.
        saved_model_limits: A sentence on what the SavedModel cannot do.
        files: A sentence on the files that are not the SavedModel's.
        int8_operators: What models of the family take well in INT8.
    """

    @property
    def input(self) -> TensorSpec: ...

    @property
    def output(self) -> TensorSpec: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the model graph, `features` too where they are asked for.

        Raises:
            ConfigError: They are, and the model has none.
        """

    @property
    def preprocess_inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def saved_model_limits(self) -> str: ...

    @property
    def files(self) -> str: ...

    @property
    def int8_operators(self) -> Operators: ...

    def write_preprocessing(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write what brings raw samples to rows, and open it for what follows."""
        ...

    def network(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The float32 graph from rows to probabilities."""
        ...

    def keras_answers(self, samples: Sequence[RawSample]) -> Sequence[Array]:
        """Keras's own probabilities of raw samples that are one row each."""
        ...

    def compare(self, samples: Sequence[RawSample]) -> Comparison:
        """A comparison on these samples, and on awkward ones of our own."""
        ...

    def feature_hops(self, name: str, precision: str, model: OnnxModel, rows: Sequence[Array]) -> Iterator[Hop]:
        """The features of a variant against Keras's, of Keras's own rows; none where it gives none."""
        ...

    def rows(self, samples: Sequence[RawSample]) -> list[Array]:
        """Raw samples as rows."""
        ...

    def batch(self, rows: Sequence[Array]) -> Array:
        """Rows as the model's input."""
        ...

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        """The model's output by row, without padding."""
        ...

    def examples(self, source: Source) -> Examples:
        """Labelled samples as rows."""
        ...

    def calibration(self, rows: Sequence[Array]) -> list[Feed]:
        """Rows as the batches that set INT8 ranges, a few to a batch."""
        ...

    def write_saved_model(self, folder: Path) -> None:
        """Write the SavedModel."""
        ...

    def settings(self) -> str:
        """What preprocessing.json holds."""
        ...


def open_conversion(trained: TrainedModel) -> Conversion:
    """The conversion of a trained model.

    Raises:
        ConversionError: It is of no kind that can be converted, or has weights that are no numbers.
    """
    from tfpipe.convert.images import ImageConversion
    from tfpipe.convert.texts import TextConversion

    parts = trained.parts
    assert_finite_weights(parts.model)
    if isinstance(parts, ImageParts):
        return ImageConversion(parts, trained.config)
    if isinstance(parts, TextParts):
        return TextConversion(parts, trained.config)
    raise ConversionError(f"model: expected one of images or texts, received {type(parts).__name__}.")
