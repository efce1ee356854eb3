"""The bundle: one folder that holds everything needed to serve a model version.

    bundle.json              this manifest; bundle.json.sha256 beside it holds its checksum
    preprocess.onnx          `image` uint8 (height, width, 3) of any size -> `input`, one row
    model.<precision>.onnx   `input` float32 (batch, ...) -> `probabilities` (batch, classes); one variant each
    preprocessing.json       the Keras config of the preprocessing layers
    golden/                  raw inputs (files as a client would send them) and answers.json
    saved_model/<version>/   for TensorFlow Serving
    certificate.json         every hop between a raw file and an answer, measured: see `tfpipe.core.certificate`
    statistics.json          of training data, for drift; where there were data: see `tfpipe.core.statistics`
    report.md, report.html   sizes, accuracy, latency, parity at each hop

Of texts there is a tokenizer/ in place of preprocess.onnx, and `input` is int32 token ids (batch, sequence).

It is immutable and known by the sha256 of its `bundle.json`, which holds the sha256 of every other file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.core import atomic
from tfpipe.core.errors import BundleError
from tfpipe.core.signature import Array, TensorSpec

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
CHECKSUM = "bundle.json.sha256"
GOLDEN = "golden"
# Pictures of many colours and sizes, that show what training files of one size, or grey ones, do not.
GENERATED = "generated"
_ANSWERS, _ROWS, _DIFFERENCES = "answers.json", "rows.npz", "differences.json"
_EXCERPT = 16_384
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Variant:
    """One precision of the model graph.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        file: Path inside the bundle.
        recipe: How it was made, e.g. {"activations": "uint8", "weights": "int8", "per_channel": True}.
        size_bytes: Size of the file.
        metrics: Task metric by name on validation data, e.g. {"accuracy": 0.98}; empty where there were none.
        latency_ms: Median milliseconds by batch size, e.g. {"1": 0.2, "8": 0.9}.
        batch_invariant: Whether a row's answer is independent of the rows beside it.
        neighbours_max_abs_diff: By how much it differed at most, in the rows that were measured.
        golden_max_abs_diff: Largest difference from Keras's golden answers, measured at conversion.
        weights: {"converted": {name: dtype}, "kept": {name: reason}}: what is stored in this precision and what is not.
    """

    precision: str
    file: str
    recipe: dict[str, Any]
    size_bytes: int
    metrics: dict[str, float]
    latency_ms: dict[str, float]
    batch_invariant: bool
    golden_max_abs_diff: float
    weights: dict[str, dict[str, str]]
    neighbours_max_abs_diff: float = 0.0


@dataclass(frozen=True)
class Execution:
    """One way to run a variant, as it was measured on the machine that converted.

    Attributes:
        variant: Name in `Manifest.variants`.
        provider: "cpu", "openvino", "cuda" or "tensorrt".
        arithmetic: "float32", "bfloat16" or "float16": what the provider computes float32 operators in.
        golden_max_abs_diff: Largest difference from Keras's golden answers.
        batch_invariant: Whether a row's answer is independent of the rows beside it.
        metrics: Task metric by name on validation data; empty where there were none.
        latency_ms: By batch size, {"1": {"p50": 0.2, "p95": 0.3, "p99": 0.4}, "8": ...}.
        rows_per_second: By batch size.
        peak_memory_bytes: Resident memory that a process which only runs it needed at most; None where not measured.
        missed: Why it may not be chosen, a sentence each; empty where it passed the gate.
    """

    variant: str
    provider: str = "cpu"
    arithmetic: str = "float32"
    golden_max_abs_diff: float = 0.0
    batch_invariant: bool = True
    metrics: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rows_per_second: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    missed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it faced the gate and passed."""
        return not self.missed

    @property
    def title(self) -> str:
        """As reports name it, e.g. "int8, cpu" or "fp32, openvino (bfloat16)"."""
        arithmetic = "" if self.arithmetic == "float32" else f" ({self.arithmetic})"
        return f"{self.variant}, {self.provider}{arithmetic}"


@dataclass(frozen=True)
class Manifest:
    """What `bundle.json` says.

    Attributes:
        model_name: Registered name, else the name of the folder that was converted.
        model_version: Registered version as a string, None for a model that is not registered.
        task: "image_classification", "text_classification" or "token_classification".
        labels: Class names, or tags, in the order of the outputs.
        inputs: What the model graph takes.
        outputs: What the model graph gives.
        preprocess_inputs: What the preprocessing graph takes; of texts, what the tokenizer takes.
        variants: By precision.
        default_variant: The precision that was asked for and passed the gate.
        training: run_id, config, data_fingerprint, git_commit, library_versions, metrics.
        measured_on: Machine and library versions of the latency figures.
        created: ISO 8601, UTC.
        files: sha256 by path inside the bundle; `seal` fills it.
        multi_label: Whether each class is answered for itself, so that an input may have several or none.
        executions: Ways to run the variants, best first on the machine that converted; see `Bundle.executions`.
        forced: Limits that were missed and overruled with --force; empty else.
    """

    model_name: str
    model_version: str | None
    task: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess_inputs: tuple[TensorSpec, ...]
    variants: dict[str, Variant]
    default_variant: str
    training: dict[str, Any]
    measured_on: dict[str, Any]
    created: str
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    # Bundles made before there was a choice do not say it.
    multi_label: bool = False
    executions: tuple[Execution, ...] = ()
    forced: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON form; `from_json` is its inverse."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Manifest":
        """Read a manifest.

        Args:
            text: Content of a bundle.json.
            where: Path for the error message.

        Raises:
            BundleError: Not JSON, of another format version, or with fields missing or unknown.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values["format_version"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BundleError(f"{where}: expected a bundle manifest (JSON), received something else.") from error
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where}: expected format version {FORMAT_VERSION}, received {version!r}. Convert the model again."
            )
        try:
            specs: dict[str, Any] = {
                name: tuple(TensorSpec.from_dict(spec) for spec in values.pop(name))
                for name in ("inputs", "outputs", "preprocess_inputs")
            }
            variants = {name: Variant(**variant) for name, variant in values.pop("variants").items()}
            executions = tuple(
                Execution(**{**entry, "missed": tuple(entry["missed"])}) for entry in values.pop("executions", ())
            )
            labels, forced = tuple(values.pop("labels")), tuple(values.pop("forced", ()))
            return cls(**specs, variants=variants, labels=labels, executions=executions, forced=forced, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{where}: expected a complete bundle manifest; {error}.") from error


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were checked."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def short_id(self) -> str:
        """First 12 hex digits of the sha256 of bundle.json."""
        return self.sha256[:12]

    def variant(self, precision: str) -> Variant:
        """The variant of a precision; "auto" gives the default one.

        Raises:
            BundleError: The bundle does not hold it.
        """
        name = self.manifest.default_variant if precision == "auto" else precision
        try:
            return self.manifest.variants[name]
        except KeyError:
            known = ", ".join(sorted(self.manifest.variants))
            raise BundleError(f"{self.folder}: expected precision {known}, received {precision!r}.") from None

    def executions(self) -> tuple[Execution, ...]:
        """Ways to run it that passed the gate, in the order in which to try them; what was forced comes first."""
        manifest = self.manifest
        forced = tuple(
            replace(execution, missed=())
            for execution in manifest.executions
            if manifest.forced and execution.variant == manifest.default_variant
        )
        known = {execution.title for execution in forced}
        passed = tuple(one for one in manifest.executions if one.passed and one.title not in known)
        if forced or passed:
            return (*forced, *passed)
        # Made before there was a choice.
        name = self.manifest.default_variant
        variant = self.manifest.variants[name]
        return (Execution(name, golden_max_abs_diff=variant.golden_max_abs_diff, metrics=variant.metrics),)

    def path(self, file: str) -> Path:
        """Where a file of the bundle lies."""
        return self.folder / file


@dataclass(frozen=True)
class GoldenSample:
    """One raw input with the answer that training's model gave.

    Attributes:
        file: Path inside the bundle of the raw bytes, as a client would send them.
        probabilities: Keras's own, float32: (classes,), or (tokens, tags) of the row without padding.
        decoded_sha256: Of what training's decoder made of the file; "" where the bundle does not say.
        row: `excerpt` of the row that Keras's preprocessing, or its tokenizer, made, times `row_scale`; None where the
            bundle has none.
        row_scale: Brings rows to a scale of 0..1; () or (channels,) float32.
    """

    file: str
    probabilities: Array
    decoded_sha256: str = ""
    row: Array | None = None
    row_scale: Array | None = None


def write_golden(
    folder: Path,
    samples: Sequence[tuple[str, bytes, Array]],
    *,
    decoded: Sequence[Array | str] = (),
    rows: Sequence[Array] = (),
    row_scale: Array | None = None,
    place: str = GOLDEN,
) -> None:
    """Write raw inputs and Keras's answers into a folder of the bundle.

    Args:
        folder: Folder of the bundle being made.
        samples: File name, raw bytes and probabilities of each, (classes,) or (tokens, tags).
        decoded: What training's decoder made of each: pixels, or a text; empty: not said.
        rows: Keras's own row of each; empty: not said.
        row_scale: Brings rows to a scale of 0..1, (channels,) float32; None: they are compared as they are.
        place: `GOLDEN`, or `GENERATED`, which services do not replay.
    """
    golden = folder / place
    golden.mkdir()
    answers: list[dict[str, Any]] = []
    for name, content, probabilities in samples:
        (golden / name).write_bytes(content)
        answers.append({"file": f"{place}/{name}", "probabilities": probabilities.tolist()})
    for answer, sample in zip(answers, decoded, strict=False):
        answer["decoded_sha256"] = decoded_sha256(sample)
    if rows:
        scale = np.ones((), np.float32) if row_scale is None else row_scale
        excerpts = {answer["file"]: excerpt(row * scale) for answer, row in zip(answers, rows, strict=True)}
        np.savez_compressed(golden / _ROWS, row_scale=scale, **excerpts)
    (golden / _ANSWERS).write_text(json.dumps(answers, indent=1), encoding="utf-8")


def excerpt(row: Array) -> Array:
    """At most some 16,000 of a row's numbers, evenly spread: enough to see another channel order or another resize."""
    # Odd, so that images of three channels give numbers of each.
    step = max(1, row.size // _EXCERPT) | 1
    return row.ravel()[:: step + 2 if step % 3 == 0 else step]


def decoded_sha256(sample: Array | str) -> str:
    """Hex sha256 of decoded pixels with their shape, or of a text."""
    content = sample.encode() if isinstance(sample, str) else str(sample.shape).encode() + sample.tobytes()
    return hashlib.sha256(content).hexdigest()


def read_golden(bundle: Bundle, place: str = GOLDEN) -> list[GoldenSample]:
    """The golden samples of a bundle, in order.

    Raises:
        BundleError: It has none, or they are not as `write_golden` writes them.
    """
    answers_file, rows_file = f"{place}/{_ANSWERS}", f"{place}/{_ROWS}"
    path = bundle.path(answers_file)
    if answers_file not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.folder}: expected golden samples ({answers_file}), found none. Convert the model again."
        )
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
        rows = np.load(bundle.path(rows_file)) if rows_file in bundle.manifest.files else {}
        return [
            GoldenSample(
                answer["file"],
                np.asarray(answer["probabilities"], np.float32),
                answer.get("decoded_sha256", ""),
                rows.get(answer["file"]),
                rows.get("row_scale"),
            )
            for answer in answers
        ]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BundleError(f"{path}: expected files with their probabilities; {error}.") from error


def write_differences(folder: Path, differences: Mapping[str, float]) -> None:
    """Write by how much each variant's answers to generated pictures differ from Keras's at most, on the CPU."""
    (folder / GENERATED / _DIFFERENCES).write_text(json.dumps(differences, indent=1), encoding="utf-8")


def read_differences(bundle: Bundle) -> dict[str, float]:
    """See `write_differences`; empty where the bundle has no generated pictures: texts, and bundles made before.

    Raises:
        BundleError: It is not as `write_differences` writes it.
    """
    file = f"{GENERATED}/{_DIFFERENCES}"
    if file not in bundle.manifest.files:
        return {}
    try:
        found = json.loads(bundle.path(file).read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise BundleError(f"{bundle.path(file)}: expected a difference of each variant; {error}.") from error


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write bundle.json with the sha256 of every file that is in `folder`; nothing may change after it."""
    files = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (folder / MANIFEST, folder / CHECKSUM)
    }
    sealed = replace(manifest, files=files)
    content = sealed.to_json().encode()
    atomic.write_file(folder / MANIFEST, content)
    # In the form of sha256sum, so that `sha256sum -c bundle.json.sha256` checks it too.
    atomic.write_file(folder / CHECKSUM, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n")
    return sealed


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against its sha256.

    Raises:
        BundleError: No bundle there, a file missing or changed, or an unknown format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: expected a bundle (a folder with {MANIFEST}), found none.")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    _check_manifest(folder, sha256)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: expected a bundle manifest (JSON), received something else.") from error
    manifest = Manifest.from_json(text, where=str(path))
    _check_files(folder, manifest.files)
    unchecked = sorted({variant.file for variant in manifest.variants.values()} - set(manifest.files))
    if unchecked:
        raise BundleError(f"{path}: expected a sha256 of every variant's file, received none for {unchecked}.")
    return Bundle(folder=folder, manifest=manifest, sha256=sha256)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_manifest(folder: Path, received: str) -> None:
    path = folder / CHECKSUM
    expected = path.read_text(encoding="utf-8", errors="replace").split(" ")[0] if path.is_file() else "none"
    if received != expected:
        raise BundleError(
            f"{folder / MANIFEST}: expected sha256 {expected[:12]}…, received {received[:12]}…. "
            "The manifest was changed after the bundle was made; copy or convert it again."
        )


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder}: expected the file {name!r}, found none. The bundle is incomplete.")
        received = file_sha256(path)
        if received != expected:
            raise BundleError(
                f"{path}: expected sha256 {expected[:12]}…, received {received[:12]}…. "
                "The file was changed after the bundle was made; copy or convert it again."
            )
