"""Batch prediction: `python -m tfpipe.predict --model MODEL --output predictions.jsonl INPUT...`."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, DataError, InferenceError, StoppedError, TfpipeError
from tfpipe.data.files import printable
from tfpipe.distributed import World, join, launched_rank
from tfpipe.inference.interface import Inference, Prepared
from tfpipe.prediction_inputs import PredictionInput, check_inputs, digest, list_inputs
from tfpipe.scoring import Scorer, open_scorer
from tfpipe.startup import run_command

_JOB = "job.json"


@dataclass(frozen=True)
class PredictionResult:
    """What batch prediction did.

    Attributes:
        output: The file of answers.
        num_inputs: Lines in it.
        num_failed: Lines that hold an error.
        num_resumed: Lines that an earlier, interrupted call had done.
    """

    output: Path
    num_inputs: int
    num_failed: int
    num_resumed: int


def predict(
    model: str,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    precision: str = "auto",
    batch_size: int = 32,
    tracking_uri: str | None = None,
    overwrite: bool = False,
) -> PredictionResult:
    """Score images or texts and write one JSON line each, in input order.

    A line is the service's answer for that input with `input` added: `{"input", "predictions": [{"label", "score",
    "probabilities"}], "model_name", ...}`; one that cannot be read has `{"input", "error": {"code", "message"}}`. The
    input of a manifest of texts is `file:line`. Where it was stopped, the next call goes on. Under horovodrun the
    workers share the inputs.

    Args:
        model: A model.keras, an output_dir, a bundle, or models:/...
        inputs: Files (an image or a text each), folders of them (searched in depth, sorted), or manifests: with a
            column `path` of images, `text` of texts.
        output: Written whole at the end; until then the answers are in `OUTPUT.partial`.
        precision: Of a bundle: a variant's name, or "auto".
        batch_size: Inputs scored at once.
        tracking_uri: Of the registry, for models:/...
        overwrite: Replace `output`, and forget what an earlier call left unfinished.

    Raises:
        ConfigError: Nothing to score, or `output` exists already, cannot be written, or belongs to another job.
        DataError: A manifest that cannot be read.
        RegistryError: Unknown model, version or alias.
        BundleError: A bundle that is incomplete or changed.
        TfpipeError: The disk is full; the next call goes on.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size: expected at least 1, received {batch_size}.")
    world = join()
    target = Path(output)
    # Before a model is loaded, which may take a while.
    world.on_chief(lambda: _check_target(target, overwrite=overwrite))
    world.on_chief(lambda: check_inputs(inputs))
    scorer = world.together(lambda: open_scorer(model, precision=precision, tracking_uri=tracking_uri))
    listed = world.together(lambda: list_inputs(inputs, scorer.inference.takes))
    partial = _partial_of(target)
    world.on_chief(lambda: _open_partial(partial, _job(scorer, listed), overwrite=overwrite))
    done = world.broadcast_object({index for index, _ in _finished_lines(partial)} if world.is_chief else set())
    to_do = [index for index in range(len(listed)) if index not in done]
    mine = to_do[world.rank :: world.size]
    world.together(lambda: _score(scorer, listed, mine, partial / f"part-{world.rank}.jsonl", batch_size, world))
    failed = world.on_chief(lambda: _merge(partial, target, len(listed)))
    return PredictionResult(target, len(listed), failed, len(done))


def _job(scorer: Scorer, inputs: Sequence[PredictionInput]) -> dict[str, Any]:
    """What an interrupted job must agree in to be gone on with."""
    return {**scorer.identity, "num_inputs": len(inputs), "inputs_sha256": digest(inputs)}


def _partial_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        raise ConfigError(f"--output: expected a file, but {str(target)!r} is a folder.")
    if target.exists() and not overwrite:
        raise ConfigError(f"--output: {str(target)!r} exists. Choose another file, or give --overwrite.")


def _open_partial(partial: Path, job: dict[str, Any], *, overwrite: bool) -> None:
    if overwrite and partial.exists():
        shutil.rmtree(partial)
    atomic.writable_folder(partial, where="--output")
    if not (partial / _JOB).exists() and not any(partial.glob("part-*")):
        atomic.write_file(partial / _JOB, json.dumps(job, indent=1))
        return
    try:
        before = json.loads((partial / _JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != job:
        raise ConfigError(
            f"--output: {str(partial)!r} holds an unfinished job with another model or other inputs. "
            "Give --overwrite to begin anew, or choose another output."
        )


def _finished_lines(partial: Path) -> Iterator[tuple[int, str]]:
    """Index and answer of each whole line in the parts; the last one of a killed process may be cut."""
    for part in sorted(partial.glob("part-*.jsonl")):
        # Cut as bytes, by "\n" alone: a character may be cut in two, and str.splitlines knows ends of line that JSON
        # does not escape.
        for line in part.read_bytes().split(b"\n")[:-1]:
            index, _, answer = line.decode().partition("\t")
            yield int(index), f"{answer}\n"


def _score(
    scorer: Scorer, inputs: Sequence[PredictionInput], mine: Sequence[int], part: Path, batch_size: int, world: World
) -> None:
    bar = tqdm(total=len(mine), desc="predict", unit=scorer.inference.takes, disable=None if world.is_chief else True)
    with _kept_in(part.parent), open(part, "a", encoding="utf-8") as out, ThreadPoolExecutor() as pool, bar:
        _end_cut_line(part, out)
        for start in range(0, len(mine), batch_size):
            indices = mine[start : start + batch_size]
            answers = _answers(scorer, [inputs[i] for i in indices], pool, batch_size)
            for index, answer in zip(indices, answers, strict=True):
                out.write(f"{index}\t{json.dumps(answer, ensure_ascii=False)}\n")
            out.flush()
            bar.update(len(indices))


def _end_cut_line(part: Path, out: Any) -> None:
    """Take off the line that a killed process was writing, so that the next one does not continue it."""
    out.truncate(part.read_bytes().rfind(b"\n") + 1)


def _answers(
    scorer: Scorer, inputs: Sequence[PredictionInput], pool: ThreadPoolExecutor, batch_size: int
) -> list[dict[str, Any]]:
    samples = pool.map(lambda given: _read(scorer.inference, given), inputs)
    prepared = [_prepare(scorer.inference, sample) for sample in samples]
    readable = [one for one in prepared if isinstance(one, Prepared)]
    predictions = scorer.answers(readable, batch_size=batch_size)
    answers: list[dict[str, Any]] = []
    for given, one in zip(inputs, prepared, strict=True):
        answer = next(predictions) if isinstance(one, Prepared) else one
        if isinstance(answer, TfpipeError):
            code = "inference_failed" if isinstance(answer, InferenceError) else "undecodable"
            answers.append({"input": printable(given.name), "error": {"code": code, "message": str(answer)}})
        else:
            answers.append({"input": printable(given.name), "predictions": [answer], **scorer.identity})
    return answers


def _read(inference: Inference, given: PredictionInput) -> Any | DataError:
    try:
        return inference.decode(given.read(inference.takes))
    except DataError as error:
        return error


def _prepare(inference: Inference, sample: Any | DataError) -> Prepared | DataError:
    # Not in the threads: Keras and the preprocessing graph have their own.
    try:
        return sample if isinstance(sample, DataError) else inference.prepare(sample)
    except DataError as error:
        return error


def _merge(partial: Path, target: Path, num_inputs: int) -> int:
    """Put the parts together in input order; gives the number of errors."""
    with _kept_in(partial):
        answers = dict(_finished_lines(partial))
        ordered = [answers[index] for index in range(num_inputs)]
        atomic.write_file(target, "".join(ordered))
    shutil.rmtree(partial)
    return sum("error" in json.loads(answer) for answer in ordered)


@contextlib.contextmanager
def _kept_in(partial: Path) -> Iterator[None]:
    """Say of a disk that is full that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise TfpipeError(
            f"--output: {error.strerror or error}. What is done is kept in {partial}; the same command goes on."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    try:
        result = predict(
            options.model, options.inputs, options.output, precision=options.precision, batch_size=options.batch_size,
            tracking_uri=options.tracking_uri, overwrite=options.overwrite,
        )  # fmt: skip
    except KeyboardInterrupt:
        if not _partial_of(Path(options.output)).exists():
            raise
        if launched_rank() != 0:
            return StoppedError.exit_code
        raise StoppedError(
            f"what is done is kept in {_partial_of(Path(options.output))}; the same command goes on."
        ) from None
    except TfpipeError:
        if launched_rank() != 0:
            return 1
        raise
    if launched_rank() == 0:
        resumed = f", {result.num_resumed} of them from an earlier call" if result.num_resumed else ""
        failed = f", {result.num_failed} unreadable" if result.num_failed else ""
        sys.stderr.write(f"{result.num_inputs} predictions in {result.output}{resumed}{failed}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.predict",
        description="Score images or texts; one JSON line each, in input order. Stopped, it goes on at the next call.",
        epilog="exit codes: 0 done, files that cannot be read included (their lines hold an error); 2 wrong usage or "
        "input; 75 stopped by a signal, the same command goes on; 1 the rest.",
    )
    parser.add_argument(
        "--model", required=True, help="a model.keras, an output_dir, a bundle, or models:/NAME[/VERSION|@ALIAS]"
    )
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="where the answers go")
    parser.add_argument(
        "--precision", default="auto", help="of a bundle: fp32, fp16, int8; default: the bundle's own choice"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="inputs scored at once (default 32)")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="registry of models:/...; default: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --output and forget an unfinished job")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files of images or texts, folders of them, or manifests with a column `path` (images) or `text` (texts)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
