"""The golden samples of a bundle, as rows of its model: what whoever opens a model replays first."""

from dataclasses import dataclass

from tfpipe.core.bundle import Bundle, Execution, read_golden
from tfpipe.core.errors import BundleError, DecodeError, InferenceError, SignatureError
from tfpipe.core.parity import Bound, golden_bound
from tfpipe.core.signature import Array
from tfpipe.inference.interface import Inference


@dataclass(frozen=True)
class GoldenRow:
    """A golden sample on its way.

    Attributes:
        row: Of the model's input, without the batch's axis.
        probabilities: Keras's own, float32: (classes,), or (tokens, tags).
    """

    row: Array
    probabilities: Array


def golden_rows(bundle: Bundle, inference: Inference) -> list[GoldenRow]:
    """Bring the golden samples of a bundle to rows.

    Of a text that is longer than a row, the first row counts: it is all that training sees of it.

    Raises:
        BundleError: There are none, or one cannot be brought to a row.
    """
    rows = []
    for sample in read_golden(bundle):
        path = bundle.path(sample.file)
        try:
            row = inference.prepare(inference.decode(path.read_bytes())).rows[0]
            bundle.manifest.inputs[0].check(row[None])
        except (OSError, DecodeError, InferenceError, SignatureError) as error:
            raise BundleError(f"{path}: expected a golden sample that can be answered; {error}") from error
        rows.append(GoldenRow(row, sample.probabilities))
    if not rows:
        raise BundleError(f"{bundle.folder}: expected golden samples to replay, received none.")
    return rows


def bound_of(bundle: Bundle, execution: Execution) -> Bound:
    """How far answers to golden samples may lie from Keras's, in one way to run a variant.

    The measure is what conversion recorded of this very way, else of the variant on the CPU: never what the machine at
    hand measured of itself.
    """
    wanted = (execution.variant, execution.provider, execution.arithmetic)
    variant = bundle.manifest.variants[execution.variant]
    recorded = {(one.variant, one.provider, one.arithmetic): one for one in bundle.manifest.executions}
    largest = recorded[wanted].golden_max_abs_diff if wanted in recorded else variant.golden_max_abs_diff
    return golden_bound(variant.precision, largest, arithmetic=execution.arithmetic)
