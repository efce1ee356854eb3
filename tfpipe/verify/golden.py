"""The hops of a bundle, measured on its golden samples without TensorFlow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tfpipe.core.bundle import (
    GENERATED,
    Bundle,
    GoldenSample,
    Variant,
    decoded_sha256,
    excerpt,
    read_differences,
    read_golden,
)
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import BundleError, DecodeError
from tfpipe.core.parity import EQUAL, ROWS, Bound, golden_bound
from tfpipe.core.signature import Array
from tfpipe.inference.interface import Inference, Prepared
from tfpipe.inference.opening import open_inference, open_model
from tfpipe.ort import OnnxModel


@dataclass(frozen=True)
class Sample:
    """One golden sample, read on this machine.

    Attributes:
        golden: With what training made of it.
        content: The file, as a client would send it.
        decoded: (height, width, 3) uint8 pixels, or a text.
        prepared: Its rows.
    """

    golden: GoldenSample
    content: bytes
    decoded: Array | str
    prepared: Prepared

    @property
    def row(self) -> Array:
        """The row that training answered; of a text that is longer than one, the first."""
        return self.prepared.rows[0]


class GoldenSamples:
    """A bundle's golden samples and what stands around its model, opened.

    Attributes:
        samples: Training files.
        generated: Pictures of many colours and sizes; empty for texts, and of bundles made before there were any.
        differences: By how much each variant's answers to those differed from Keras's where it was converted.

    Args:
        bundle: Checked.

    Raises:
        BundleError: It has none, or a file that cannot be read.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.inference: Inference = open_inference(bundle, threads=1)
        self.samples = tuple(self._read(golden) for golden in read_golden(bundle))
        if not self.samples:
            raise BundleError(f"{bundle.folder}: expected golden samples, found none. Convert the model again.")
        self.differences = read_differences(bundle)
        further = read_golden(bundle, GENERATED) if self.differences else []
        self.generated = tuple(self._read(golden) for golden in further)

    @cached_property
    def expected(self) -> list[Array]:
        """Keras's own probabilities of each."""
        return [sample.golden.probabilities for sample in self.samples]

    def hops(self, *, threads: int | None = None) -> Iterator[Hop]:
        """Decoding, preprocessing and every variant, in the order of a request's walk."""
        yield self._decoding()
        yield from self._preprocessing()
        # Largest first: fp32, fp16, int8.
        for variant in sorted(self.bundle.manifest.variants.values(), key=lambda one: -one.size_bytes):
            yield self._model(variant, threads)

    @property
    def _everything(self) -> tuple[Sample, ...]:
        return (*self.samples, *self.generated)

    def _read(self, golden: GoldenSample) -> Sample:
        path = self.bundle.path(golden.file)
        try:
            content = path.read_bytes()
            decoded = self.inference.decode(content)
            return Sample(golden, content, decoded, self.inference.prepare(decoded))
        except (OSError, DecodeError) as error:
            raise BundleError(f"{path}: expected a golden sample that can be read; {error}") from error

    def _decoding(self) -> Hop:
        title = "file -> decoder"
        wrong = [
            sample.golden.file
            for sample in self._everything
            if sample.golden.decoded_sha256 and decoded_sha256(sample.decoded) != sample.golden.decoded_sha256
        ]
        compares = "text" if self.inference.takes == "text" else "pixels"
        problem = f"{title}: expected the {compares} that training decoded, received others of {', '.join(wrong)}."
        count = len(self._everything)
        right = 1 - len(wrong) / count
        return Hop(
            "decode", title, compares, count, None if wrong else 0.0, None if wrong else 0.0,
            agreement=right, bound=EQUAL, problem=problem if wrong else "",
        )  # fmt: skip

    def _preprocessing(self) -> Iterator[Hop]:
        told = [(sample, sample.golden) for sample in self._everything if sample.golden.row is not None]
        scales = [1.0 if golden.row_scale is None else golden.row_scale for _, golden in told]
        rows = [excerpt(sample.row * scale) for (sample, _), scale in zip(told, scales, strict=True)]
        expected = [golden.row for _, golden in told if golden.row is not None]
        if not told:
            return
        if self.inference.takes == "text":
            yield compare("preprocess", "text -> token ids", rows, expected, EQUAL, compares="token ids")
        else:
            yield compare("preprocess", "pixels -> preprocess.onnx", rows, expected, ROWS, compares="rows")

    def _model(self, variant: Variant, threads: int | None) -> Hop:
        model = open_model(self.bundle, variant, provider="cpu", threads=threads)
        name = variant.file.removeprefix("model.").removesuffix(".onnx")
        bound = golden_bound(variant.precision, variant.golden_max_abs_diff)
        title = f"file -> ... -> {variant.file}"
        hop = compare(name, title, self._answers(model, self.samples), self.expected, bound)
        if hop.problem or name not in self.differences:
            return hop
        wider = golden_bound(variant.precision, self.differences[name])
        return replace(hop, problem=self.generated_problem(title, self._answers(model, self.generated), wider))

    def generated_problem(self, title: str, answers: Sequence[Array], bound: Bound) -> str:
        """What is wrong with answers to the generated pictures; "" where they are within their bound."""
        expected = [sample.golden.probabilities for sample in self.generated]
        return compare("generated", f"{title}, of generated pictures", answers, expected, bound).problem

    def _answers(self, model: OnnxModel, samples: Sequence[Sample]) -> list[Array]:
        answers: list[Array] = []
        for sample in samples:
            batch = self.inference.batch([sample.row])
            probabilities = model.run({model.input_names[0]: batch}, ["probabilities"])["probabilities"]
            answers += self.inference.cut(probabilities, [sample.row])
        return answers


def rows_of(samples: Sequence[Sample]) -> list[Array]:
    """The row of each."""
    return [sample.row for sample in samples]
