"""Texts on their way into a bundle."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from tfpipe.convert import to_onnx
from tfpipe.convert.features import feature_hops, features_spec
from tfpipe.convert.hops import Hops, asked
from tfpipe.convert.quantize import Feed
from tfpipe.convert.recipe import Operators
from tfpipe.convert.trained import RawSample
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import ConfigError
from tfpipe.core.parity import BOUNDS, EQUAL, Bound
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.data.pipeline import evaluation_batches
from tfpipe.data.sources import Source
from tfpipe.data.text import TextSource
from tfpipe.data.token_rows import TokenReader
from tfpipe.distributed import World
from tfpipe.export_text import LIMITS, export_text_saved_model, has_string_signature
from tfpipe.models.assembly import TextParts
from tfpipe.ort import OnnxModel
from tfpipe.settings import Config
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.golden import AWKWARD_TEXTS
from tfpipe.text.keras_side import keras_ids
from tfpipe.text.packing import row_of
from tfpipe.verify.saved_model import saved_model_hops

_BATCH = 32
_CALIBRATION_BATCH = 8
# Rows of every length stand beside each other in one, as strangers' requests would.
_MIXED_ROWS = 16
TEXT = TensorSpec("text", "str", ())


class TextConversion:
    """A `Conversion` of a model of texts.

    Args:
        parts: The trained model, under float32 policies.
        config: Of its run.
    """

    preprocess_inputs = (TEXT,)
    int8_operators: Operators = "products"
    files = "`tokenizer/` makes token ids of a text; `model.*.onnx` takes batches of them, padded at the end."

    def __init__(self, parts: TextParts, config: Config) -> None:
        self._parts, self._config = parts, config
        self._inference = parts.inference()

    @property
    def saved_model_limits(self) -> str:
        return LIMITS[has_string_signature(self._parts)]

    @property
    def input(self) -> TensorSpec:
        return to_onnx.TOKENS

    @property
    def output(self) -> TensorSpec:
        num_outputs = len(self._parts.labels)
        shape = ("batch", "sequence", num_outputs) if self._parts.per_token else ("batch", num_outputs)
        return TensorSpec("probabilities", "float32", shape)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        if not self._config.conversion.features:
            return (self.output,)
        if self._parts.per_token:
            raise ConfigError(
                "conversion.features: expected a model that answers a whole text, as features are one vector a text; "
                "task token_classification answers each word. Convert without conversion.features."
            )
        return (self.output, features_spec(self._parts.network))

    def feature_hops(self, name: str, precision: str, model: OnnxModel, rows: Sequence[Array]) -> Iterator[Hop]:
        return feature_hops(self._parts.network, name, precision, model, self.batch, rows)

    def write_preprocessing(self, folder: Path, metadata: Mapping[str, str]) -> None:
        self._parts.saved.write(folder / tokenizers.FOLDER)

    def network(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        parts = self._parts
        return to_onnx.text_network_to_onnx(
            parts.network,
            parts.probabilities,
            num_outputs=len(parts.labels),
            per_token=parts.per_token,
            opset=self._config.conversion.opset,
            metadata=metadata,
            features=len(self.outputs) > 1,
        )

    def keras_answers(self, samples: Sequence[RawSample]) -> list[Array]:
        return self.compare(samples).probabilities[: len(samples)]

    def compare(self, samples: Sequence[RawSample]) -> "TextComparison":
        return TextComparison(self, self._parts, samples)

    def rows(self, samples: Sequence[RawSample]) -> list[Array]:
        """The first row of each: a text whose words are tagged may have several."""
        return [self._inference.prepare(sample.sample).rows[0] for sample in samples]

    def batch(self, rows: Sequence[Array]) -> Array:
        return self._inference.batch(rows)

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        return self._inference.cut(probabilities, rows)

    def examples(self, source: Source) -> "TextExamples":
        if not isinstance(source, TextSource):
            raise TypeError(f"source: expected texts, received {type(source).__name__}.")
        return TextExamples(source, self._parts)

    def calibration(self, rows: Sequence[Array]) -> list[Feed]:
        # Of like lengths, as they are served together.
        ordered = sorted(rows, key=len)
        starts = range(0, len(ordered), _CALIBRATION_BATCH)
        return [{"input": self.batch(ordered[start : start + _CALIBRATION_BATCH])} for start in starts]

    def write_saved_model(self, folder: Path) -> None:
        export_text_saved_model(self._parts, folder)

    def settings(self) -> str:
        # What the model was built with counts, wherever the configuration came from.
        config = self._config.preprocessing.model_dump(mode="json") | {"max_length": self._parts.max_length}
        return json.dumps({"config": config}, indent=2, ensure_ascii=False) + "\n"


class TextExamples:
    """Labelled texts as rows; `Examples`.

    Args:
        source: The texts.
        parts: The model's tokenizer and task.
    """

    def __init__(self, source: TextSource, parts: TextParts) -> None:
        self._reader = TokenReader(source, parts.tokenizer, parts.task, max_length=parts.max_length, world=World())
        self.first_error = next(iter(self._reader.corrupt.values()), "")

    def __len__(self) -> int:
        return len(self._reader.source)

    def batches(self) -> Iterator[tuple[Array, Array, int]]:
        """See `Examples`: (n, tokens) int32, and labels as training has them."""
        for batch in evaluation_batches(self._reader, batch_size=_BATCH, world=World()):
            readable = batch.weights.numpy() > 0
            rows, labels = batch.rows.numpy()[readable], batch.labels.numpy()[readable]
            yield rows, labels, int(readable.sum()) + int(batch.num_corrupt)


class TextComparison(Hops):
    """A `Comparison` of texts: Keras tokenises with its own layer and answers each text alone.

    Args:
        conversion: Of the model.
        parts: The trained model, under float32 policies.
        samples: Raw texts; awkward ones are added. Those that have several rows are left out.
    """

    # Awkward texts are compared here; golden ones show another tokenizer well.
    generated = ()

    def __init__(self, conversion: TextConversion, parts: TextParts, samples: Sequence[RawSample]) -> None:
        super().__init__()
        self._conversion, self._parts = conversion, parts
        everything = (*samples, *awkward_samples())
        inference = parts.inference()
        self.samples = tuple(sample for sample in everything if len(inference.prepare(sample.sample).rows) == 1)
        self.rows = self._keras_rows()
        self.row_scale = None
        score = tf.function(
            lambda rows: parts.model(rows, training=False),
            input_signature=[tf.TensorSpec((None, None), tf.int32)],
            autograph=False,
        )
        self.probabilities: list[Array] = [np.asarray(score(row[None])[0]) for row in self.rows]

    def check_preprocessing(self) -> list[Array]:
        """Texts -> token ids, which must be equal."""
        rows = self._conversion.rows(self.samples)
        hop = compare("preprocess", "text -> token ids", rows, self.rows, EQUAL, compares="token ids")
        for sample, row, expected in zip(self.samples, rows, self.rows, strict=True):
            if row.tolist() != expected.tolist():
                problem = (
                    f"{hop.title}: for {sample.sample[:60]!r} expected the Keras layer's {expected[:16].tolist()}, "
                    f"received {row[:16].tolist()}."
                )
                self.note(replace(hop, problem=problem))
        self.note(hop)
        return rows

    def check_model(self, precision: str, model: OnnxModel, rows: Sequence[Array]) -> list[Array]:
        """Each text alone, and beside others of every length.

        Returns:
            The answers alone.
        """
        bound = BOUNDS.get(precision)
        alone = self._answers(model, rows, batch_size=1)
        self._note(precision, f"text -> tokenizer -> model.{precision}.onnx", alone, bound)
        mixed = self._answers(model, rows, batch_size=_MIXED_ROWS)
        self._note(f"{precision}.batched", f"the same in batches of {_MIXED_ROWS}, padded", mixed, bound)
        return alone

    def check_saved_model(self, loaded: Any) -> None:
        """See `Comparison.check_saved_model`."""
        for hop in saved_model_hops(loaded, asked(self.samples, self.rows, self.probabilities)):
            self.note(hop)

    def _keras_rows(self) -> list[Array]:
        tokenizer = self._parts.tokenizer
        ids = keras_ids(tokenizer, [sample.sample for sample in self.samples])
        return [row_of(tokenizer, of_text, self._parts.max_length) for of_text in ids]

    def _answers(self, model: OnnxModel, rows: Sequence[Array], *, batch_size: int) -> list[Array]:
        answers: list[Array] = []
        for start in range(0, len(rows), batch_size):
            together = rows[start : start + batch_size]
            answered = model.run({"input": self._conversion.batch(together)})["probabilities"]
            answers += self._conversion.cut(answered, together)
        return answers

    def _note(self, name: str, title: str, candidate: Sequence[Array], bound: Bound | None) -> None:
        self.note(compare(name, title, candidate, self.probabilities, bound))


def awkward_samples() -> tuple[RawSample, ...]:
    """Texts that are hard to tokenise, as files."""
    return tuple(
        RawSample(f"awkward-{number:02d}.txt", text.encode(), text) for number, text in enumerate(AWKWARD_TEXTS)
    )
