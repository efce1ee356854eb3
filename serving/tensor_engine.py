"""A model of named tensors in the service: loaded, proved and described; /predict has no way to ask it."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from serving.errors import InvalidRequestError
from serving.sessions import OpenModel, Sessions
from serving.source import ServedBundle
from tfpipe.core.bundle import Execution
from tfpipe.core.errors import BundleError, GateError, SignatureError, TfpipeError
from tfpipe.core.golden_tensors import check_tensors, read_golden_tensors
from tfpipe.core.signature import Array
from tfpipe.inference.opening import open_model
from tfpipe.inference.tensors import TENSOR_TASK, TensorModel


class TensorEngine:
    """What the service needs of an engine, for a bundle of task `tensor`; see `Engine`.

    Args:
        served: The bundle and its names.
        model: A variant of it, opened.
        sessions: See `Engine.sessions`.
    """

    task = TENSOR_TASK
    takes = "tensors"
    gives_features = False
    labels: tuple[str, ...] = ()
    # What strangers' arrays mean is not known here.
    drift = None

    def __init__(self, served: ServedBundle, model: TensorModel, sessions: Sessions | None = None) -> None:
        self.sessions = sessions
        self.name, self.version, self.aliases = served.name, served.version, served.aliases
        self.variant, self.precision = model.variant, model.precision
        self.provider, self.arithmetic = model.provider, model.arithmetic
        self.why = ""
        self.passed_over: tuple[str, ...] = ()
        self.golden_max_abs_diff = math.nan
        self.bundle_id = served.bundle.short_id
        self.inputs, self.outputs = model.inputs, model.outputs
        self._served, self._model = served, model

    @cached_property
    def _golden_feeds(self) -> Mapping[str, Array]:
        samples = [sample.inputs for sample in read_golden_tensors(self._served.bundle)]
        return min(samples, key=lambda feeds: sum(array.nbytes for array in feeds.values()))

    @property
    def is_batchable(self) -> bool:
        """Whether requests may share a run: every input and output has rows, and no row's answer depends on others."""
        axes = {spec.shape[0] if spec.shape else 1 for spec in (*self.inputs, *self.outputs)}
        variant = self._served.bundle.manifest.variants[self.variant]
        return len(axes) == 1 and isinstance(axes.pop(), str) and bool(variant.batch_invariant)

    def check(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Refuse named arrays that the model does not take.

        Raises:
            InvalidRequestError: Says what was expected and what was received.
        """
        try:
            check_tensors(self.inputs, feeds)
        except SignatureError as error:
            raise InvalidRequestError(str(error)) from error
        known = [spec.name for spec in self.outputs]
        for name in outputs:
            if name not in known:
                raise InvalidRequestError(f"outputs: expected some of {', '.join(known)}, received {name!r}.")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `TensorModel.run`. NaN and infinity are answers: its author may mean them."""
        return self._model.run(feeds)

    def is_well(self) -> bool:
        """Whether it runs a golden sample; what it fails to run at the same time then fails by itself."""
        try:
            self.run(self._golden_feeds)
        except (TfpipeError, MemoryError):
            return False
        return True

    @classmethod
    def open(
        cls,
        served: ServedBundle,
        execution: Execution,
        *,
        threads: int | None,
        engines_dir: Path,
        open_model: OpenModel = open_model,
    ) -> "TensorEngine":
        """Open the session of a bundle.

        Args:
            served: The bundle and its names.
            execution: The way to run it.
            threads: Threads inside one run of the model; None means one a core.
            engines_dir: Where TensorRT keeps its engines.
            open_model: Opens the model; see `serving.sessions.opener`.

        Raises:
            BundleError: A precision or graph that cannot be served.
            ConfigError: The provider is not there.
        """
        bundle = served.bundle
        variant = bundle.variant(execution.variant)
        model = open_model(
            bundle, variant, provider=execution.provider, arithmetic=execution.arithmetic, threads=threads,
            engines_dir=engines_dir,
        )  # fmt: skip
        return cls(served, TensorModel(bundle, variant, model), model if isinstance(model, Sessions) else None)

    def replay_golden(self) -> float:
        """Answer the bundle's golden samples; the largest difference from the answers in it.

        Raises:
            GateError: It exceeds what the variant may differ.
            BundleError: The bundle has no golden samples, or one that does not fit the model.
        """
        try:
            hop = self._model.replay_golden()
        except SignatureError as error:
            raise BundleError(f"{self._served.bundle.folder}: golden samples: {error}") from error
        if hop.problem:
            raise GateError(f"golden samples of {self.name!r}, {self.precision} on {self.provider}: {hop.problem}")
        self.golden_max_abs_diff = hop.max_abs_diff or 0.0
        return self.golden_max_abs_diff

    def warm_up(self) -> None:
        """Nothing: the golden samples have run it, and what else it is asked is not known."""

    def close(self) -> None:
        """End its processes, where it has some."""
        if self.sessions is not None:
            self.sessions.close()

    def refuse(self, path: str) -> InvalidRequestError:
        """Why a path for files and texts cannot ask it."""
        specs = [f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in self._model.inputs]
        return InvalidRequestError(
            f"{path}: model {self.name!r} takes named tensors, which {path} cannot carry: {'; '.join(specs)}. In "
            "Python: tfpipe.inference.tensors.open_tensors.",
            model_name=self.name,
            inputs=[spec.to_dict() for spec in self._model.inputs],
        )
