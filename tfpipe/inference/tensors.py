"""Models of named tensors: a bundle of task `tensor`, opened and asked without TensorFlow."""

from collections.abc import Mapping

from tfpipe.core.bundle import Bundle, Variant
from tfpipe.core.errors import BundleError
from tfpipe.core.golden_tensors import check_tensors, read_golden_tensors, scaled, tensor_bound
from tfpipe.core.parity import Bound, assert_parity, golden_bound
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.inference.opening import open_model
from tfpipe.ort import OnnxModel

TENSOR_TASK = "tensor"


class TensorModel:
    """Named arrays in, named arrays out. Threads may share it.

    Example:
        model = open_tensors(open_bundle(Path("bundles/rain")))
        answers = model.run({"wind": np.zeros((1, 4), np.float32), "month": np.array([[7]], np.int32)})

    Attributes:
        inputs: What it takes; axes of one name have one length.
        outputs: What it gives.
        precision: Variant that runs.
        provider: What runs it.

    Args:
        bundle: Checked, of task `tensor`.
        variant: One of its variants.
        model: The variant's session.

    Raises:
        BundleError: Another task, or a graph with other names than the manifest's.
    """

    def __init__(self, bundle: Bundle, variant: Variant, model: OnnxModel) -> None:
        manifest = bundle.manifest
        if manifest.task != TENSOR_TASK:
            raise BundleError(f"{bundle.folder}: expected task {TENSOR_TASK!r}, received {manifest.task!r}.")
        self.inputs: tuple[TensorSpec, ...] = manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = manifest.outputs
        self.precision, self.provider = variant.precision, model.provider
        self._bundle, self._variant, self._model = bundle, variant, model
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

    def replay_golden(self) -> float:
        """Answer the bundle's golden samples and compare with Keras's answers.

        Returns:
            The largest difference, on the scale of `golden_tensors.scaled`.

        Raises:
            GateError: It exceeds what the variant may differ.
            BundleError: The bundle has no golden samples.
            SignatureError: One does not fit the model.
        """
        largest = 0.0
        for number, sample in enumerate(read_golden_tensors(self._bundle)):
            pairs = scaled(self.run(sample.inputs), sample.outputs)
            for spec in self.outputs:
                bound = self._bound(spec)
                if bound is not None:
                    where = f"golden sample {number}, output {spec.name!r}, {self.precision} on {self.provider}"
                    largest = max(largest, assert_parity(*pairs[spec.name], bound, where=where))
        return largest

    def _bound(self, spec: TensorSpec) -> Bound | None:
        if "float" in spec.dtype:
            return golden_bound(self.precision, self._variant.golden_max_abs_diff)
        return tensor_bound(self.precision, spec.dtype)


def open_tensors(
    bundle: Bundle, *, precision: str = "auto", provider: str = "auto", threads: int | None = None
) -> TensorModel:
    """Open a bundle of task `tensor`.

    Args:
        bundle: Checked.
        precision: "auto" (the bundle's default variant) or a variant's name.
        provider: See `tfpipe.ort.open_session`.
        threads: Threads inside one run; None means one a core.

    Raises:
        BundleError: Another task, or no such precision.
        ConfigError: The provider is not there.
    """
    variant = bundle.variant(precision)
    return TensorModel(bundle, variant, open_model(bundle, variant, provider=provider, threads=threads))
