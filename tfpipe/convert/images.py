"""Images on their way into a bundle."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx

from tfpipe.convert import to_onnx
from tfpipe.convert.features import feature_hops, features_spec
from tfpipe.convert.hops import ImageComparison
from tfpipe.convert.onnx_file import save_model
from tfpipe.convert.passes import preprocessing_passes, run_passes
from tfpipe.convert.quantize import Feed
from tfpipe.convert.recipe import Operators
from tfpipe.convert.trained import RawSample
from tfpipe.core.certificate import Hop
from tfpipe.core.errors import DataError
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.data.sources import Source, to_pixels
from tfpipe.export import SAVED_MODEL_LIMITS, KerasReference, export_saved_model, preprocessing_to_json
from tfpipe.models.assembly import ImageParts
from tfpipe.ort import OnnxModel, open_session
from tfpipe.settings import Config

_BATCH = 8
# Histograms keep every activation of a batch in memory.
_CALIBRATION_BATCH = 4
_FILE = "preprocess.onnx"


class ImageConversion:
    """A `Conversion` of a model of images.

    Args:
        parts: The trained model, under float32 policies.
        config: Of its run.
    """

    preprocess_inputs = (to_onnx.IMAGE,)
    int8_operators: Operators = "all"
    saved_model_limits = SAVED_MODEL_LIMITS
    files = "`preprocess.onnx` takes one decoded image, upright 8-bit RGB; `model.*.onnx` takes batches of its rows."

    def __init__(self, parts: ImageParts, config: Config) -> None:
        self._parts, self._config = parts, config
        self._opened: OnnxModel | None = None

    @property
    def input(self) -> TensorSpec:
        return to_onnx.rows_spec(self._parts)

    @property
    def output(self) -> TensorSpec:
        return to_onnx.probabilities_spec(self._parts)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        features = self._config.conversion.features
        return (self.output, features_spec(self._parts.network)) if features else (self.output,)

    def feature_hops(self, name: str, precision: str, model: OnnxModel, rows: Sequence[Array]) -> Iterator[Hop]:
        return feature_hops(self._parts.network, name, precision, model, self.batch, rows)

    def write_preprocessing(self, folder: Path, metadata: Mapping[str, str]) -> None:
        graph = to_onnx.preprocessing_to_onnx(self._parts, opset=self._config.conversion.opset, metadata=metadata)
        resize = self._parts.preprocessing.resize
        # Of a height and a width that are no multiples of anything, and those of the rows.
        sizes = ((37, 53), (resize.height, resize.width))
        pixels = [np.arange(h * w * 3, dtype=np.uint32).astype(np.uint8).reshape(h, w, 3) for h, w in sizes]
        passes = preprocessing_passes(self._config.conversion.opset)
        graph, _ = run_passes(graph, passes, inputs=[{"image": one} for one in pixels])
        save_model(graph, folder / _FILE)
        self._opened = open_session(folder / _FILE, provider="cpu")

    def network(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        config = self._config.conversion
        return to_onnx.network_to_onnx(self._parts, opset=config.opset, metadata=metadata, features=config.features)

    def keras_answers(self, samples: Sequence[RawSample]) -> list[Array]:
        keras = KerasReference(self._parts)
        return [keras.probabilities(sample.sample) for sample in samples]

    def compare(self, samples: Sequence[RawSample]) -> ImageComparison:
        return ImageComparison(self._parts, samples, self._preprocess)

    def rows(self, samples: Sequence[RawSample]) -> list[Array]:
        return [self._preprocess.run({"image": sample.sample})["input"] for sample in samples]

    def batch(self, rows: Sequence[Array]) -> Array:
        return np.stack(rows)

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        return list(probabilities)

    def examples(self, source: Source) -> "ImageExamples":
        return ImageExamples(self._preprocess, source, self._config.data.max_image_pixels)

    def calibration(self, rows: Sequence[Array]) -> list[Feed]:
        starts = range(0, len(rows), _CALIBRATION_BATCH)
        return [{"input": self.batch(rows[start : start + _CALIBRATION_BATCH])} for start in starts]

    def write_saved_model(self, folder: Path) -> None:
        export_saved_model(self._parts, folder)

    def settings(self) -> str:
        return preprocessing_to_json(self._parts.preprocessing, self._config.preprocessing)

    @property
    def _preprocess(self) -> OnnxModel:
        if self._opened is None:
            raise RuntimeError("preprocessing: expected write_preprocessing to have been called.")
        return self._opened


class ImageExamples:
    """Decodes and preprocesses samples with several threads, as a service would each of them; `Examples`.

    Args:
        preprocess: The preprocessing graph.
        source: Labelled images.
        max_pixels: Larger images count as unreadable.
    """

    def __init__(self, preprocess: OnnxModel, source: Source, max_pixels: int) -> None:
        self._preprocess, self._source, self._max_pixels = preprocess, source, max_pixels
        self.first_error = ""

    def __len__(self) -> int:
        return len(self._source)

    def batches(self) -> Iterator[tuple[Array, Array, int]]:
        """See `Examples`: (n, height, width, 3) float32, (n,) int32."""
        with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
            for start in range(0, len(self._source), _BATCH):
                indices = range(start, min(start + _BATCH, len(self._source)))
                read = [entry for entry in pool.map(self._row, indices) if entry is not None]
                rows = np.stack([row for row, _ in read]) if read else np.empty((0,), np.float32)
                yield rows, np.array([label for _, label in read], np.int32), len(indices)

    def _row(self, index: int) -> tuple[Array, int] | None:
        try:
            sample, label = self._source.read(index)
            pixels = to_pixels(sample, self._max_pixels)
        except (DataError, OSError) as error:
            self.first_error = self.first_error or f"{self._source.identifier(index)}: {error}"
            return None
        return self._preprocess.run({"image": pixels})["input"], label
