"""One training run from a configuration to a registered model; what `tfpipe.train.train` does."""

import contextlib
import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe import tracking
from tfpipe.config import save_config
from tfpipe.core.criteria import missed_criteria
from tfpipe.core.errors import ConfigError, DataError, GateError, StoppedError, TfpipeError, TrainingError
from tfpipe.data.pipeline import RowReader
from tfpipe.data.splits import Splits, open_splits
from tfpipe.distributed import Regroup, World, WorldChanges, is_lost_worker, join, launched, launched_elastic
from tfpipe.models.assembly import (
    Parts,
    assemble,
    build_network,
    build_preprocessing,
    build_resize,
    known_normalization,
)
from tfpipe.models.zoo import Normalization
from tfpipe.provenance import git_commit, library_versions
from tfpipe.registry import ModelVersion, Registry, register_if_good
from tfpipe.settings import Config
from tfpipe.tasks import image_classification as task
from tfpipe.training import agreement, artifacts, checkpoints, limits, precision, report, workspace
from tfpipe.training.averaging import adopt_average
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.elastic import Commit, CommitEverySteps, Watchdog
from tfpipe.training.evaluation import Evaluation
from tfpipe.training.keras_callbacks import KerasCallbacks, build_callbacks
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.metrics_server import MetricsServer
from tfpipe.training.observers import Observer
from tfpipe.training.peers import Peer, describe_lost, introduce
from tfpipe.training.profiling import Profile
from tfpipe.training.recipe import check_loss
from tfpipe.training.sentinel import DesyncSentinel
from tfpipe.training.signals import StopRequest
from tfpipe.training.summary import summary_rows, summary_text
from tfpipe.training.telemetry import Telemetry
from tfpipe.training.time_limit import TimeLimit
from tfpipe.training.tuning import HorovodTuning
from tfpipe.training.user_metrics import build_metrics, check_metrics

logger = logging.getLogger(__name__)

# Enough to know a mean and a standard deviation to half a percent; a larger data set would cost an epoch of reading.
_ADAPT_SAMPLES = 10_000
_ADAPT_CHUNK = 256
# A channel that is all but constant would be divided by nearly zero.
_LEAST_STD = 1 / 255


@dataclass(frozen=True)
class TrainingResult:
    """What a complete run gave; `output_dir`/result.json holds the same.

    Attributes:
        output_dir: Folder of the run.
        run_id: MLflow run.
        registered_model: Name in the registry, None where none was asked for.
        model_version: Registered version, None where it was not registered.
        metrics: Of the model that was saved: the best epoch's.
        samples_per_second: Training samples a second over the run, all workers together.
        workers: Number of workers.
        wall_time_s: Seconds of training.
    """

    output_dir: Path
    run_id: str
    registered_model: str | None
    model_version: str | None
    metrics: dict[str, float]
    samples_per_second: float
    workers: int
    wall_time_s: float


class Tracked(Observer):
    """Records the metrics of each epoch."""

    def __init__(self, tracker: tracking.Tracker) -> None:
        self._tracker = tracker

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        tracking.log_epoch(self._tracker, epoch, metrics)


def run(
    config: Config, *, resume: bool, overwrite: bool, fast_dev_run: bool = False, profile: bool = False
) -> TrainingResult:
    """Train, evaluate, save and register; see `tfpipe.train.train`."""
    _check_elastic(config)
    commit = Commit()
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        # A notebook goes on with the policy that it had.
        held.callback(keras.mixed_precision.set_global_policy, keras.mixed_precision.global_policy())
        if launched_elastic():
            held.enter_context(contextlib.closing(Watchdog(config.training.stall_s)))
        training = config.training
        timeline = None if training.timeline is None else Path(training.timeline)
        world = join(placement=training.placement, threads=training.threads, timeline=timeline)
        while True:
            try:
                return _sitting(
                    config,
                    world,
                    commit,
                    stop,
                    resume=resume,
                    overwrite=overwrite,
                    fast_dev_run=fast_dev_run,
                    profile=profile,
                )
            except Regroup as change:
                # The warning goes to every worker's output: which of them is the chief changes too.
                logger.warning("worker %d: %s; going on with those that are there.", world.rank, change)
            world.leave()
            keras.backend.clear_session()
            world = join(again=True)


def _sitting(
    config: Config,
    world: World,
    commit: Commit,
    stop: StopRequest,
    *,
    resume: bool,
    overwrite: bool,
    fast_dev_run: bool,
    profile: bool,
) -> TrainingResult:
    """The run with the workers that are there, to its end or until they change."""
    folder = Path(config.output_dir)
    peers: list[Peer] = []
    try:
        peers = introduce(world)
        # Every worker read the file; the chief's reading counts, as the time in output_dir differs.
        mine, config = config, world.broadcast_object(commit.config or config)
        commit.config = config
        if fast_dev_run:
            config, overwrite = limits.fast_dev_run(config), True
        folder = Path(config.output_dir)
        again = commit.state is not None
        if resume or again:
            config = world.on_chief(lambda: precision.recorded(config, folder / workspace.CONFIG))
        with contextlib.ExitStack() as held:
            world.on_chief(
                lambda: _nothing(
                    held.enter_context(
                        workspace.opened(config, resume=resume or again, overwrite=overwrite and not again)
                    )
                )
            )
            agreement.check_same_configuration(mine, world)
            servers = _servers(config, world, held)
            result = _run(config, world, folder, stop, commit, servers, fast_dev_run=fast_dev_run, profile=profile)
            missed = missed_criteria(result.metrics, config.tracking.min_metrics)
            if missed:
                raise GateError(f"tracking.min_metrics: {' '.join(missed)} The model was logged, not registered.")
            _note_status(world, folder, None)
            return result
    except TfpipeError as error:
        _note_status(world, folder, error)
        raise
    except (tf.errors.OpError, RuntimeError) as error:
        if is_lost_worker(error):
            lost = describe_lost(peers)
            if launched_elastic():
                raise Regroup(lost) from error
            failure = TrainingError(
                f"{lost}, so worker {world.rank} ends too. Go on from the last checkpoint with: "
                f"python -m tfpipe.train --config {config.output_dir}/config.yaml --resume"
            )
        elif isinstance(error, tf.errors.OpError):
            failure = _explain(error, config)
        else:
            raise
        _note_status(world, folder, failure)
        raise failure from error


def _check_elastic(config: Config) -> None:
    """Horovod replaces workers only where it was started so, and only those that know what to do then.

    Raises:
        ConfigError: The launcher and the configuration disagree.
    """
    if launched_elastic() and not config.training.elastic:
        raise ConfigError("training.elastic: expected true under horovodrun with --min-np, received false.")
    if config.training.elastic and launched() and not launched_elastic():
        raise ConfigError(
            "training.elastic: expected horovodrun with --min-np, --max-np and --host-discovery-script, received a "
            "fixed number of workers. Start it so, or set training.elastic=false."
        )


@dataclass(frozen=True)
class Prepared:
    """Data and model of a run, before its first step; `callbacks` are the user's."""

    splits: Splits
    train: RowReader
    validation: RowReader | None
    test: RowReader | None
    parts: Parts
    loop: TrainingLoop
    callbacks: Sequence[keras.callbacks.Callback]


def prepare(config: Config, world: World, stop: StopRequest, *, fast_dev_run: bool = False) -> Prepared:
    """Open the data and build the model, the same on every worker.

    Raises:
        ConfigError: The configuration does not go with the data or the model.
        DataError: The data cannot be used.
    """
    # 1. Data: the same on every worker.
    _say(world, "placement: %s", world.describe_placement())
    _check_metric_names(config)
    user_callbacks = world.together(lambda: build_callbacks(config.training))
    world.together(lambda: precision.check(config.training))
    splits = _open_data(config, world)
    splits = limits.one_batch_each(splits, config) if fast_dev_run else limits.limited(splits, config)
    check_loss(config.training, len(splits.train.labels))
    check_metrics(build_metrics(config.training), len(splits.train.labels))
    _say(world, "%s", _data_line(splits))

    # 2. Model.
    keras.utils.set_random_seed(config.training.seed)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    train = _reader(splits.train, config, world)
    if config.training.precision == "auto":
        config = precision.resolve(config, len(splits.train.labels), train, world)
    keras.mixed_precision.set_global_policy(config.training.precision)
    validation, test = (
        None if source is None else _reader(source, config, world) for source in (splits.validation, splits.test)
    )
    parts = world.together(lambda: _build(config, splits, train, world))
    loop = world.together(lambda: TrainingLoop(parts, config, world, train, validation, stop))
    _say(
        world,
        "model: %s, %s parameters, %d worker(s)",
        config.model.name,
        f"{parts.model.count_params():,}",
        world.size,
    )
    return Prepared(splits, train, validation, test, parts, loop, user_callbacks)


def _servers(config: Config, world: World, held: contextlib.ExitStack) -> list[Observer]:
    """What others look at a run through; told before it starts if it cannot be had."""
    servers: list[Observer] = []
    if (port := config.training.metrics_port) is not None:
        host = config.training.metrics_host
        world.on_chief(lambda: servers.append(held.enter_context(MetricsServer(host, port))))
        _say(world, "metrics: http://%s:%d/metrics", host, port)
    return servers


def _run(
    config: Config,
    world: World,
    folder: Path,
    stop: StopRequest,
    commit: Commit,
    servers: list[Observer],
    *,
    fast_dev_run: bool,
    profile: bool,
) -> TrainingResult:
    prepared = prepare(config, world, stop, fast_dev_run=fast_dev_run)
    splits, parts, loop = prepared.splits, prepared.parts, prepared.loop
    if loop.config != config:
        # The precision was found; a resumed run goes on with it.
        config = loop.config
        world.on_chief(lambda: save_config(config, folder / workspace.CONFIG))

    # 3. Where an earlier sitting stopped.
    saved = CheckpointFolder(folder / workspace.CHECKPOINTS, keep=config.training.keep_checkpoints)
    state = world.on_chief(lambda: _restore(loop, saved, commit))
    loop.start_together()

    # 4. Tracking: the chief owns the run.
    tracker = tracking.NoTracker() if fast_dev_run else _start_tracking(config, world, state, splits)
    state.run_id = world.broadcast_object(tracker.run_id)

    # 5. Train.
    try:
        if state.history:
            # Its metrics may have been on their way when the earlier sitting ended.
            tracking.log_epoch(tracker, len(state.history) - 1, state.history[-1])
        with contextlib.closing(WorldChanges()) as changes, contextlib.ExitStack() as held:
            observers = [
                Telemetry(loop, state), *servers, *_observers(config, loop, tracker, prepared.callbacks, state)
            ]  # fmt: skip
            if profile and world.is_chief:
                num_steps = config.training.epochs * loop.steps_per_epoch - state.step
                observers.append(held.enter_context(Profile(folder / "profile", num_steps)))
            if launched_elastic():
                every = config.training.elastic_commit_steps
                observers.insert(0, CommitEverySteps(loop, state, commit, world, changes, every_steps=every))
            loop.run(state, held.enter_context(CheckpointWriter(saved)), observers)
        # 6. The best weights are the model.
        state.best_epoch = world.on_chief(lambda: restore_best(loop, saved, state))
        world.broadcast_variables(parts.model.variables)
        readers = {"val": prepared.validation, "test": prepared.test}
        evaluations = {name: loop.evaluate(r) for name, r in readers.items() if r is not None}
        metrics = _final_metrics(state, evaluations)
        version = world.on_chief(
            lambda: _finish(config, folder, parts, splits, state, metrics, evaluations, tracker, world)
        )
    except BaseException as error:
        if launched_elastic() and (isinstance(error, Regroup) or is_lost_worker(error)):
            tracker.suspend()
            raise
        with contextlib.suppress(TfpipeError):
            tracker.finish("KILLED" if isinstance(error, StoppedError | KeyboardInterrupt) else "FAILED")
        raise

    # 7. Last, the file that says that the run is complete.
    result = TrainingResult(
        output_dir=folder,
        run_id=state.run_id or "",
        registered_model=config.tracking.registered_model,
        model_version=None if version is None else version.version,
        metrics=metrics,
        samples_per_second=state.samples_seen / max(state.wall_time_s, 1e-9),
        workers=world.size,
        wall_time_s=state.wall_time_s,
    )
    _say(world, "%s", summary_text(summary_rows(state.history, workers=world.size, wall_time_s=state.wall_time_s)))
    if world.is_chief:
        document = asdict(result)
        document.pop("output_dir")
        workspace.save_result(folder, document)
    return result


def _observers(
    config: Config,
    loop: TrainingLoop,
    tracker: tracking.Tracker,
    callbacks: Sequence[keras.callbacks.Callback],
    state: TrainingState,
) -> list[Observer]:
    """What watches a run, in the order in which it is told."""
    training, world, observers = config.training, loop.world, list[Observer]()
    if training.sentinel_steps is not None:
        observers.append(DesyncSentinel(loop.synchronized_variables, world, every_steps=training.sentinel_steps))
    if training.max_time is not None:
        observers.append(TimeLimit(training.max_time, state.wall_time_s, is_chief=world.is_chief))
    if callbacks:
        steps = loop.steps_per_epoch
        observers.append(KerasCallbacks(callbacks, training, loop.parts, loop.optimizer, world, state, steps))
    # Variables and their gradients are float32 under every precision.
    sizes = [4 * int(np.prod(variable.shape)) for variable in loop.parts.network.trainable_variables]
    return [*observers, Tracked(tracker), HorovodTuning(world, gradient_bytes=sizes)]


def _check_metric_names(config: Config) -> None:
    """Hours of training must not end at a name that was mistyped.

    Raises:
        ConfigError: `training.monitor` or `tracking.min_metrics` names a metric that this task does not have.
    """
    known = [f"{prefix}{name}" for prefix in ("", "val_", "test_") for name in task.METRICS]
    known += [f"{prefix}{metric.name}" for prefix in ("val_", "test_") for metric in build_metrics(config.training)]
    named = [("training.monitor", config.training.monitor)]
    named += [("tracking.min_metrics", name) for name in config.tracking.min_metrics]
    problems = [
        f"{key}: expected one of {', '.join(known)}, received {name!r}." for key, name in named if name not in known
    ]
    if config.training.monitor.startswith("test_"):
        problems.append("training.monitor: expected a metric of every epoch; test data are scored once, at the end.")
    if problems:
        raise ConfigError("\n".join(problems))


def _open_data(config: Config, world: World) -> Splits:
    splits = world.together(lambda: open_splits(config))
    agreement.check_same_data(splits, world)
    agreement.check_enough_for_all(config, len(splits.train), world)
    return splits


def _data_line(splits: Splits) -> str:
    counts = [
        f"{len(source)} {name}"
        for name, source in (("training", splits.train), ("validation", splits.validation), ("test", splits.test))
        if source is not None
    ]
    return f"data: {', '.join(counts)} samples, {len(splits.train.labels)} classes"


def _reader(source: Any, config: Config, world: World) -> RowReader:
    return RowReader(
        source, build_resize(config.preprocessing), max_pixels=config.data.max_image_pixels, cache=config.data.cache,
        processes=world.local_size,
    )  # fmt: skip


def _build(config: Config, splits: Splits, train: RowReader, world: World) -> Parts:
    known = known_normalization(config)
    # A name or a file of weights that is wrong is told before samples are read.
    network = build_network(config, len(splits.train.labels))
    normalization = known or adapted_normalization(train, world)
    return assemble(build_preprocessing(config.preprocessing, normalization), network, splits.train.labels)


def adapted_normalization(reader: RowReader, world: World) -> Normalization:
    """Mean and standard deviation per channel of up to 10,000 training samples; each worker reads its share.

    Raises:
        DataError: None of them can be read.
    """
    picked = np.unique(np.linspace(0, len(reader.source) - 1, _ADAPT_SAMPLES).astype(np.int64))
    mine = picked[world.rank :: world.size]
    sums = np.zeros((3, 3))
    for start in range(0, len(mine), _ADAPT_CHUNK):
        rows, readable = reader.read(mine[start : start + _ADAPT_CHUNK])
        values = rows[readable].astype(np.float64) / 255.0
        sums += [np.full(3, values[..., 0].size), values.sum((0, 1, 2)), np.square(values).sum((0, 1, 2))]
    count, total, squares = np.sum(world.gather_objects(sums), axis=0)
    if not count[0]:
        raise DataError(
            "data.path: expected readable training samples, received none. `python -m tfpipe.data validate` says why."
        )
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0.0)), _LEAST_STD)
    # Six digits: how the sums were split over workers must not show.
    return Normalization(tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))


def _restore(loop: TrainingLoop, saved: CheckpointFolder, commit: Commit) -> TrainingState:
    if commit.state is not None:
        checkpoints.restore(loop.variables(), commit.arrays, where="the last commit")
        logger.info("going on from the last commit: epoch %d, step %d", commit.state.epoch + 1, commit.state.step)
        return copy.deepcopy(commit.state)
    saved.tidy()
    newest = saved.load_newest()
    if newest is None:
        return TrainingState()
    path, arrays, state = newest
    checkpoints.restore(loop.variables(), arrays, where=str(path))
    logger.info("resuming from %s: epoch %d, step %d", path, state.epoch + 1, state.step)
    return state


def restore_best(loop: TrainingLoop, saved: CheckpointFolder, state: TrainingState) -> int | None:
    """Bring the best weights back; gives their epoch."""
    best = saved.load_best()
    if best is None:
        logger.warning("the best checkpoint cannot be read; the last weights are saved instead.")
        return len(state.history) - 1
    arrays, then = best
    if then.best_epoch != state.best_epoch:
        logger.warning(
            "the checkpoint of the best epoch, %s, was not written; epoch %s, the best that was, is saved instead.",
            _counted(state.best_epoch),
            _counted(then.best_epoch),
        )
    checkpoints.restore(loop.variables(), arrays, where="the best checkpoint")
    adopt_average(loop.optimizer)
    return then.best_epoch


def _counted(epoch: int | None) -> str:
    return "unknown" if epoch is None else str(epoch + 1)


def _start_tracking(config: Config, world: World, state: TrainingState, splits: Splits) -> tracking.Tracker:
    placement = world.describe_placement()
    started: list[tracking.Tracker] = [tracking.NoTracker()]

    def start() -> None:
        started[0] = tracking.MlflowTracker.start(
            config,
            run_id=state.run_id,
            extra_tags={
                "tfpipe.data_fingerprint": splits.fingerprint,
                "tfpipe.git_commit": git_commit(),
                **{f"tfpipe.version.{name}": version for name, version in library_versions().items()},
            },
            extra_params={"workers": world.size, "placement": placement},
        )

    world.on_chief(start)
    return started[0]


def _final_metrics(state: TrainingState, evaluations: dict[str, Evaluation | None]) -> dict[str, float]:
    """The best epoch's training metrics, and what the saved weights score."""
    epoch = state.best_epoch if state.best_epoch is not None else len(state.history) - 1
    best = state.history[epoch]
    metrics = {name: best[name] for name in ("loss", "accuracy")} | {"epoch": float(epoch)}
    for prefix, evaluation in evaluations.items():
        if evaluation is None:
            raise StoppedError("stopped during the last evaluation; give --resume to finish.")
        metrics |= {f"{prefix}_{name}": value for name, value in evaluation.metrics.items()}
    return metrics


def _finish(
    config: Config,
    folder: Path,
    parts: Parts,
    splits: Splits,
    state: TrainingState,
    metrics: dict[str, float],
    evaluations: dict[str, Evaluation | None],
    tracker: tracking.Tracker,
    world: World,
) -> ModelVersion | None:
    """On the chief: write the trained-model folder and the report, log them, register."""
    card = {
        "task": config.task,
        "labels": list(parts.labels),
        "model_name": config.tracking.registered_model,
        "run_id": state.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "data_fingerprint": splits.fingerprint,
        "git_commit": git_commit(),
        "library_versions": library_versions(),
        "samples": {"train": len(splits.train), "validation": len(splits.validation or ())},
    }
    artifacts.save_model(parts, folder / "model.keras")
    artifacts.save_model_card(folder / "model.json", card)
    artifacts.save_validation_index(folder / "validation.json", splits)
    artifacts.save_calibration(
        folder / "calibration", splits.train, seed=config.training.seed, max_pixels=config.data.max_image_pixels
    )
    summary = card | {"workers": world.size, "ended": state.ended, "wall_time_s": state.wall_time_s}
    _report(config, folder, parts.labels, state, evaluations, tracker, summary)
    tracker.log_metrics({f"final_{name}": value for name, value in metrics.items()}, step=state.epoch)
    if isinstance(tracker, tracking.NoTracker):
        return None
    version = register_if_good(
        Registry(config.tracking.uri, retry_s=config.tracking.retry_s),
        config.tracking.registered_model,
        run_id=state.run_id or "",
        folder=folder,
        metrics=metrics,
        min_metrics=config.tracking.min_metrics,
        metadata=card,
    )
    tracker.finish("FINISHED")
    return version


def _report(
    config: Config,
    folder: Path,
    labels: Sequence[str],
    state: TrainingState,
    evaluations: dict[str, Evaluation | None],
    tracker: tracking.Tracker,
    summary: dict[str, Any],
) -> None:
    evaluation = evaluations.get("test") or evaluations.get("val")
    confusion = None if evaluation is None else evaluation.confusion
    page = report.write_report(
        folder, config=config, history=state.history, confusion=confusion, labels=labels, summary=summary
    )
    tracker.log_file(page)
    tracker.log_figure(report.loss_figure(state.history), "curves.png")
    if confusion is not None:
        tracker.log_figure(report.confusion_figure(confusion, labels), "confusion.png")


def _explain(error: tf.errors.OpError, config: Config) -> TrainingError:
    if isinstance(error, tf.errors.ResourceExhaustedError):
        training = config.training
        return TrainingError(
            f"out of memory with training.batch_size={training.batch_size} and training.accumulation_steps="
            f"{training.accumulation_steps}. Try training.accumulation_steps={2 * training.accumulation_steps}, which "
            f"trains the same in smaller pieces, or training.batch_size={max(1, training.batch_size // 2)}. "
            f"TensorFlow says: {str(error).splitlines()[0]}"
        )
    return TrainingError(f"TensorFlow failed: {str(error).splitlines()[0]}")


def _note_status(world: World, folder: Path, error: TfpipeError | None) -> None:
    if world.is_chief:
        with contextlib.suppress(OSError):
            workspace.save_status(folder, error)


def _say(world: World, message: str, *values: Any) -> None:
    if world.is_chief:
        logger.info(message, *values)


def _nothing(_: Any) -> None:
    """The result of a context that is entered for its effect; not to be sent to other workers."""
