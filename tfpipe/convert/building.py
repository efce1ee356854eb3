"""A trained model of a task of ours -> everything that its bundle holds. `Building.run` reads straight down."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfpipe.convert import backends, measure, report, sealing, sparsity
from tfpipe.convert.asked import Asked
from tfpipe.convert.candidate import Candidate, measure_candidate, write_candidate
from tfpipe.convert.conversion import open_conversion
from tfpipe.convert.examine import Known, RememberedExamples, Yardstick
from tfpipe.convert.islands import to_float16_within
from tfpipe.convert.passes import run_passes, standard_passes
from tfpipe.convert.phases import phase
from tfpipe.convert.reference import KerasRows, SavedModelRows
from tfpipe.convert.staging import measured_on, stage
from tfpipe.convert.statistics import write_statistics
from tfpipe.convert.trained import TrainedModel
from tfpipe.convert.variants import Found, find_variants
from tfpipe.convert.weight_only import open_environment, weight_only_variants
from tfpipe.core.errors import DataError, GateError
from tfpipe.core.parity import BOUNDS, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.data.sources import Source
from tfpipe.verify.saved_model import load_saved_model

logger = logging.getLogger(__name__)

# Files compared with Keras hop by hop; generated pictures of other sizes are added.
_COMPARED_SAMPLES = 32
# Rows of which every tensor inside the graph is looked at together.
_FEW = 4
# So many of them are compared in every trial of a search, and beside each other.
_LEAST_ROWS = 8


def write_bundle(trained: TrainedModel, asked: Asked, title: str, target: Path) -> None:
    """Make the bundle of a trained model of a task of ours.

    Raises:
        ConfigError: See `stage`.
        DataError: See `tfpipe.convert.pipeline.convert`.
        ConversionError: See `convert`.
        GateError: See `convert`.
    """
    findings = report.Findings(title, asked.precision, trained.config.conversion)
    stage(lambda folder: Building(trained, asked, folder, findings).run(), findings, target)


class Building:
    """One bundle on its way.

    Args:
        trained: The model.
        asked: What for.
        folder: Empty; filled.
        findings: For the report; filled.
    """

    def __init__(self, trained: TrainedModel, asked: Asked, folder: Path, findings: report.Findings) -> None:
        self._trained, self._asked, self._folder, self._findings = trained, asked, folder, findings
        self._config = trained.config.conversion
        self._metadata = sealing.metadata(trained)
        self._conversion = open_conversion(trained)
        self._candidates: dict[str, Candidate] = {}
        # Of the whole chain, by variant.
        self._answers: dict[str, Sequence[Array]] = {}
        self._scores: measure.Scores | None = None
        self._found: Found | None = None

    def run(self) -> None:
        """Write everything.

        Raises:
            DataError: Calibration samples or validation data are missing, changed or unreadable.
            ConversionError: The model holds something that cannot be converted.
            GateError: A hop beyond its bound, or a limit missed.
        """
        self._note_origin()
        # What the score is measured on, and a second environment: known to be there before anything slow.
        validation, self._environment = self._open_validation(), open_environment(self._config)
        self._prepare(validation)
        self._make_floats()
        self._find_variants()
        self._store_weights()
        self._write_saved_model()
        self._measure()
        self._judge()
        self._write_statistics()
        golden = self._num_golden
        sealing.seal_bundle(
            self._folder, self._trained, self._conversion, self._comparison, golden, self._answers, self._scores,
            self._findings,
        )  # fmt: skip

    @property
    def _num_golden(self) -> int:
        return min(self._config.golden_samples, len(self._trained.samples), len(self._comparison.samples))

    def _note_origin(self) -> None:
        findings, trained = self._findings, self._trained
        findings.measured_on = measured_on()
        if trained.trained_policy != "float32":
            findings.notes.append(f"Trained under {trained.trained_policy}; rebuilt in float32 with the same weights.")
        if trained.foreign is not None:
            findings.notes += trained.foreign.notes
        backends.note_fallback(findings, self._asked.fallback)

    def _prepare(self, validation: Source | None) -> None:
        """Preprocessing, which makes Keras's rows or is not taken."""
        with phase("preprocessing"):
            self._conversion.write_preprocessing(self._folder, self._metadata)
            examples = None if validation is None else self._conversion.examples(validation)
            self._examples = None if examples is None else RememberedExamples(examples)
            num_compared = max(_COMPARED_SAMPLES, self._config.golden_samples)
            self._comparison = self._conversion.compare(self._trained.samples[:num_compared])
            self._findings.hops = self._comparison.hops
            self._rows = self._comparison.check_preprocessing()

    def _make_floats(self) -> None:
        """The float32 graph after its passes, and float16."""
        with phase("onnx fp32"):
            few = [{"input": self._conversion.batch(self._rows[:1])}, *self._batches()[:1]]
            passes = standard_passes(self._config.opset)
            # No name for the graph that is written: the passes let it go.
            graph, self._findings.passes = run_passes(self._conversion.network(self._metadata), passes, inputs=few)
            self._take(Candidate("fp32", "fp32", graph, {"opset": self._config.opset}))
        with phase("onnx fp16"):
            half = to_float16_within(graph, self._batches(), BOUNDS["fp16"])
            recipe = {"weights": "float16", "float32": "inputs, outputs, Softmax", "islands": half.islands}
            self._take(Candidate("fp16", "fp16", half.model, recipe, half.kept))
        keras: dict[str, measure.Answers] = {"keras": KerasRows(self._trained.parts, self._conversion.input)}
        self._score(keras | {name: candidate.session() for name, candidate in self._candidates.items()})

    def _find_variants(self) -> None:
        """INT8 by the recipes of the model's family, or whatever a search finds fastest."""
        search = self._asked.search
        if self._asked.precision != "int8" and search is None:
            return
        calibration = self._conversion.rows(self._trained.calibration)
        graphs = {name: candidate.graph for name, candidate in self._candidates.items()}
        with phase(f"int8 ({len(calibration)} samples)" if search is None else "search"):
            found = find_variants(graphs, calibration, self._yardstick(), self._config, search=search)
        self._found = found
        self._findings.trials, self._findings.search_ended = found.trials, found.ended
        if found.default_variant is not None:
            self._findings.precision = found.default_variant
        for name, candidate in found.int8.items():
            self._take(candidate)
            scores = found.known[name].scores
            if scores is None:
                self._score({name: candidate.session()})
            else:
                self._join(scores)

    def _store_weights(self) -> None:
        """Weights of 4 or 8 bits alone, where they are asked for."""
        for candidate in weight_only_variants(self._environment, self._candidates["fp32"], self._config):
            self._take(candidate)
            self._score({candidate.name: candidate.session()})

    def _yardstick(self) -> Yardstick:
        """What is asked for without a search is timed as the report has it, and once; a search takes all cores."""
        timing = measure.reported_timing if self._asked.search is None else measure.search_timing
        count = max(self._num_golden, _LEAST_ROWS)
        return Yardstick(
            self._conversion,
            self._rows[:count],
            self._comparison.probabilities[:count],
            self._examples,
            self._trained.parts.task,
            self._trained.config.data.max_corrupt_fraction,
            timing(self._config.latency_runs),
            self._scores,
        )

    def _write_saved_model(self) -> None:
        """The SavedModel, and what TF-TRT makes of it."""
        version = self._trained.version
        folder = self._folder / "saved_model" / (version.version if version else "1")
        with phase("SavedModel"):
            self._conversion.write_saved_model(folder)
            loaded = load_saved_model(folder)
            self._comparison.check_saved_model(loaded)
        self._score({"saved_model": SavedModelRows(loaded)})
        if self._asked.backend != "tftrt":
            return
        with phase("TF-TRT"):
            calibration = self._trained.samples[: self._config.calibration_samples]
            tftrt = backends.add_tftrt(
                folder, self._asked.precision, self._conversion, self._comparison, self._rows, calibration
            )
        self._score({"tftrt": tftrt})
        if self._scores is not None:
            backends.check_score(self._scores, "tftrt", self._config.max_metric_drop)

    def _measure(self) -> None:
        """Size, latency and the rest of each variant."""
        findings, golden = self._findings, self._num_golden
        with phase("latency"):
            for name, candidate in self._candidates.items():
                write_candidate(candidate, self._folder, self._metadata | {"graph": "model"})
                differences = zip(self._answers[name][:golden], self._comparison.probabilities[:golden], strict=True)
                farthest = max(max_abs_diff(answer, reference) for answer, reference in differences)
                findings.add(
                    measure_candidate(
                        candidate, self._conversion, self._rows, self._folder, self._config, self._scores, farthest,
                        self._known(name),
                    )
                )  # fmt: skip
        if self._asked.backend == "tensorrt":
            self._add_engine()
        findings.sections += sparsity.sections(self._trained.card, self._folder, findings.measured)
        if self._scores is not None:
            findings.num_validation, findings.num_corrupt = self._scores.num_samples, self._scores.num_corrupt

    def _known(self, name: str) -> Known | None:
        """How a variant was timed where that is what the report says: on one core, which is not what a search asks."""
        if self._found is None or self._asked.search is not None:
            return None
        return self._found.known.get(name)

    def _add_engine(self) -> None:
        """What was asked for, run by ONNX Runtime's TensorRT provider."""
        candidate = self._candidates[self._asked.precision]
        with phase("TensorRT engine"):
            engine = backends.open_engine(self._folder, candidate)
            scores = self._scored({engine.provider: engine})
            variant = self._findings.measured[candidate.name]
            pairs = list(zip(self._rows, self._comparison.probabilities, strict=True))[: self._num_golden]
            self._findings.others.append(backends.measure_engine(engine, variant, self._conversion, pairs, scores))

    def _judge(self) -> None:
        """Have every variant face the gate; what is to be served by default is judged as it is to be run."""
        missed = self._findings.judge()
        if self._asked.search is not None and self._found is not None and self._found.chosen is not None:
            self._findings.executions = self._found.with_others(self._findings.executions)
            missed = []
        if missed and not self._asked.force:
            self._findings.missed = missed
            raise GateError(" ".join(missed))
        self._findings.forced = missed

    def _write_statistics(self) -> None:
        """What a service compares its traffic with."""
        with phase("statistics"):
            model = self._candidates[self._findings.precision].session()
            found = write_statistics(self._folder, self._trained, self._examples, model)
        if found is None:
            self._findings.notes.append("No data were given, so a service cannot tell drift: there are no statistics.")

    def _take(self, candidate: Candidate) -> None:
        """Compare a candidate with Keras, its features too."""
        session = candidate.session()
        answers = self._comparison.check_model(candidate.name, session, self._rows)
        rows = self._comparison.rows
        for hop in self._conversion.feature_hops(candidate.name, candidate.precision, session, rows):
            self._comparison.note(hop)
        self._candidates[candidate.name], self._answers[candidate.name] = candidate, answers

    def _batches(self) -> list[dict[str, Array]]:
        """Inputs of the model graph, a few rows each."""
        starts = range(0, len(self._rows), _FEW)
        return [{"input": self._conversion.batch(self._rows[start : start + _FEW])} for start in starts]

    def _score(self, models: Mapping[str, measure.Answers]) -> None:
        """Add the scores of further forms, where there are validation data."""
        further = self._scored(models)
        if further is not None:
            self._join(further)

    def _join(self, further: measure.Scores) -> None:
        self._scores = further if self._scores is None else self._scores.joined(further)

    def _scored(self, models: Mapping[str, measure.Answers]) -> measure.Scores | None:
        examples, trained = self._examples, self._trained
        if examples is None:
            return None
        with phase(f"score of {', '.join(models)} on {len(examples)} samples"):
            return measure.score(
                models, examples, trained.parts.task, max_corrupt_fraction=trained.config.data.max_corrupt_fraction
            )

    def _open_validation(self) -> Source | None:
        """The data to judge by; fp32, which is what others are judged by, can do without."""
        try:
            return self._required_validation()
        except DataError as error:
            if self._asked.precision != "fp32":
                raise
            logger.warning("no accuracy is measured: %s", error)
            self._findings.notes.append(f"No accuracy was measured: {error}")
            return None

    def _required_validation(self) -> Source | None:
        validation = measure.open_validation(self._trained)
        if validation is not None:
            return validation
        if self._trained.foreign is None:
            raise DataError(
                "validation data: expected some to measure accuracy on, but the run has none. "
                "Give data.validation_path=..., or convert with --precision fp32."
            )
        if self._asked.precision == "int8" and not self._trained.calibration:
            raise DataError(
                "calibration data: expected samples to set INT8 ranges, received none. Give data.validation_path=..., "
                "data.path=... or conversion.calibration_path=..., or convert with --precision fp16 or fp32."
            )
        return None
