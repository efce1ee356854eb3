"""Models of named tensors: a bundle of task `tensor`, opened and asked without TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfpipe.core.bundle import Bundle, Variant
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import BundleError
from tfpipe.core.golden_tensors import check_tensors, read_golden_tensors, scaled
from tfpipe.core.parity import Bound, golden_bound
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.inference.opening import open_model
from tfpipe.ort import Model

TENSOR_TASK = "tensor"


class TensorModel:
    """Named arrays in, named arrays out. Threads may share it.

    Example:
        model = open_tensors(open_bundle(Path("bundles/rain")))
        answers = model.run({"wind": np.zeros((1, 4), np.float32), "month": np.array([[7]], np.int32)})

    Attributes:
        inputs: What it takes; axes of one name have one length.
        outputs: What it gives.
        variant: Name of the variant that runs.
        precision: Its precision.
        provider: What runs it.
        arithmetic: What that computes float32 operators in.

    Args:
        bundle: Checked, of task `tensor`.
        variant: One of its variants.
        model: The variant's session.

    Raises:
        BundleError: Another task, or a graph with other names than the manifest's.
    """

    def __init__(self, bundle: Bundle, variant: Variant, model: Model) -> None:
        manifest = bundle.manifest
        if manifest.task != TENSOR_TASK:
            raise BundleError(f"{bundle.folder}: expected task {TENSOR_TASK!r}, received {manifest.task!r}.")
        self.inputs: tuple[TensorSpec, ...] = manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = manifest.outputs
        self.precision, self.provider, self.arithmetic = variant.precision, model.provider, model.arithmetic
        self._bundle, self._variant, self._model = bundle, variant, model
        # Several variants may share a precision.
        self.variant = next(name for name, one in manifest.variants.items() if one.file == variant.file)
        expected = {spec.name for spec in self.inputs}, {spec.name for spec in self.outputs}
        if expected != (set(model.input_names), set(model.output_names)):
            raise BundleError(
                f"{bundle.path(variant.file)}: expected {sorted(expected[0])} -> {sorted(expected[1])}, received "
                f"{model.input_names} -> {model.output_names}."
            )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer once.

        Args:
            inputs: Array by input name, as `inputs` says.

        Returns:
            Array by output name, as `outputs` says.

        Raises:
            SignatureError: A name, dtype or shape is another.
            InferenceError: The model failed.
            MemoryError: There was not enough of it.
        """
        check_tensors(self.inputs, inputs)
        return self._model.run(inputs, [spec.name for spec in self.outputs])

    def replay_golden(self) -> Hop:
        """Answer the bundle's golden samples and compare with the answers in it.

        Raises:
            BundleError: The bundle has no golden samples.
            SignatureError: One does not fit the model.
        """
        samples = read_golden_tensors(self._bundle)
        return tensor_hop(
            self._variant.file.removeprefix("model.").removesuffix(".onnx"),
            f"tensors -> {self._variant.file}",
            [self.run(sample.inputs) for sample in samples],
            [sample.outputs for sample in samples],
            golden_bound(self.precision, self._variant.golden_max_abs_diff, arithmetic=self.arithmetic),
            is_exact=self.precision == "fp32" and self.arithmetic == "float32",
        )


def tensor_hop(
    name: str,
    title: str,
    answers: Sequence[Mapping[str, Array]],
    references: Sequence[Mapping[str, Array]],
    bound: Bound | None,
    *,
    is_exact: bool,
) -> Hop:
    """Compare a converted form with the model's own answers.

    Floats are compared on the scale of `golden_tensors.scaled`.

    Args:
        name: See `Hop`.
        title: See `Hop`.
        answers: Array by output name, one of each request.
        references: Likewise, the model's own.
        bound: See `Hop`.
        is_exact: Whether whole numbers must be equal, as in float32; in less, the position of a largest value may
            change where two are about equal.
    """
    pairs = [
        (output, pair, np.issubdtype(reference[output].dtype, np.floating))
        for answer, reference in zip(answers, references, strict=True)
        for output, pair in scaled(answer, reference).items()
    ]
    wrong = [output for output, (one, other), is_float in pairs if not is_float and not np.array_equal(one, other)]
    floats = [pair for _, pair, is_float in pairs if is_float]
    hop = compare(name, title, [pair[0] for pair in floats], [pair[1] for pair in floats], bound, compares="tensors")
    if wrong and is_exact and not hop.problem:
        hop = replace(hop, problem=f"{title}: expected output {wrong[0]!r} equal to Keras's, received other numbers.")
    return replace(hop, num_files=len(answers))


def open_tensors(
    bundle: Bundle,
    *,
    precision: str = "auto",
    provider: str = "auto",
    arithmetic: str = "float32",
    threads: int | None = None,
    engines_dir: Path | None = None,
) -> TensorModel:
    """Open a bundle of task `tensor`.

    Args:
        bundle: Checked.
        precision: "auto" (the bundle's default variant) or a variant's name.
        provider: See `tfpipe.ort.open_session`.
        arithmetic: See `open_session`.
        threads: Threads inside one run; None means one a core.
        engines_dir: Where TensorRT keeps its engines; None: nowhere.

    Raises:
        BundleError: Another task, or no such precision.
        ConfigError: The provider is not there.
    """
    variant = bundle.variant(precision)
    model = open_model(
        bundle, variant, provider=provider, arithmetic=arithmetic, threads=threads, engines_dir=engines_dir
    )
    return TensorModel(bundle, variant, model)
