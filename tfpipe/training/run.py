"""One training run from a configuration to a registered model; what `tfpipe.train.train` does."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe import tracking
from tfpipe.config import save_config
from tfpipe.core.criteria import missed_criteria
from tfpipe.core.errors import ConfigError, GateError, StoppedError, TfpipeError, TrainingError
from tfpipe.data.data_version import data_versions
from tfpipe.data.splits import Splits
from tfpipe.distributed import Regroup, World, WorldChanges, is_lost_worker, join, launched, launched_elastic
from tfpipe.provenance import git_commit, library_versions
from tfpipe.settings import Config
from tfpipe.training import agreement, checkpoints, limits, precision, workspace
from tfpipe.training.artifacts import save_tokenizer
from tfpipe.training.averaging import adopt_average
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.completion import final_metrics, finish
from tfpipe.training.elastic import Commit, CommitEverySteps, Watchdog
from tfpipe.training.keras_callbacks import KerasCallbacks
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.metrics_server import MetricsServer
from tfpipe.training.observers import Observer
from tfpipe.training.peers import Peer, describe_lost, introduce
from tfpipe.training.preparation import prepare, say
from tfpipe.training.profiling import Profile
from tfpipe.training.sentinel import DesyncSentinel
from tfpipe.training.signals import StopRequest
from tfpipe.training.stall import StallWatch
from tfpipe.training.summary import summary_rows, summary_text
from tfpipe.training.telemetry import Telemetry
from tfpipe.training.time_limit import TimeLimit
from tfpipe.training.tuning import HorovodTuning

logger = logging.getLogger(__name__)


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
        # Asked by all, as a worker that joins an elastic run does not know that it goes on.
        started = resume or again
        config = world.on_chief(lambda: precision.recorded(config, folder / workspace.CONFIG) if started else config)
        with contextlib.ExitStack() as held:
            world.on_chief(
                lambda: _nothing(
                    held.enter_context(workspace.opened(config, resume=started, overwrite=overwrite and not again))
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
    except KeyboardInterrupt as error:
        if fast_dev_run or not (folder / workspace.CONFIG).exists():
            raise
        stopped = StoppedError(
            "a second signal ended it at once; what came after the newest checkpoint is lost. "
            f"Go on with: python -m tfpipe.train --config {folder}/config.yaml --resume"
        )
        _note_status(world, folder, stopped)
        raise stopped from error
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


def _servers(config: Config, world: World, held: contextlib.ExitStack) -> list[Observer]:
    """What others look at a run through; told before it starts if it cannot be had."""
    servers: list[Observer] = []
    if (port := config.training.metrics_port) is not None:
        host = config.training.metrics_host
        world.on_chief(lambda: servers.append(held.enter_context(MetricsServer(host, port))))
        say(world, "metrics: http://%s:%d/metrics", host, port)
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
    prepared = prepare(config, world, stop, folder=folder, fast_dev_run=fast_dev_run)
    splits, parts, loop = prepared.splits, prepared.parts, prepared.loop
    if loop.config != config:
        # The precision was found; a resumed run goes on with it.
        config = loop.config
        world.on_chief(lambda: save_config(config, folder / workspace.CONFIG))
    # Now, for a resumed run must have the same.
    world.on_chief(lambda: save_tokenizer(parts, folder))

    # 3. Where an earlier sitting stopped.
    saved = CheckpointFolder(folder / workspace.CHECKPOINTS, keep=config.training.keep_checkpoints)
    state = world.on_chief(lambda: _restore(loop, saved, commit))
    loop.start_together()

    # 4. Tracking: the chief owns the run.
    tracker = tracking.NoTracker() if fast_dev_run else _start_tracking(config, world, state, splits)
    state.run_id = world.broadcast_object(tracker.run_id)

    with _told_how_it_ends(tracker):
        # 5. Train.
        if state.history:
            # Its metrics may have been on their way when the earlier sitting ended.
            tracking.log_epoch(tracker, len(state.history) - 1, state.history[-1])
        with contextlib.ExitStack() as held:
            observers = [*servers, *_observers(config, loop, tracker, prepared.callbacks, state)]
            observers = _with_guards(observers, config, loop, state, commit, held)
            if profile and world.is_chief:
                num_steps = config.training.epochs * loop.steps_per_epoch - state.step
                observers.append(held.enter_context(Profile(folder / "profile", num_steps)))
            loop.run(state, held.enter_context(CheckpointWriter(saved)), observers)
        # 6. The best weights are the model.
        state.best_epoch = world.on_chief(lambda: restore_best(loop, saved, state))
        world.on_chief(loop.pruning.complete)
        world.broadcast_variables(parts.model.variables)
        readers = {"val": prepared.validation, "test": prepared.test}
        evaluations = {name: loop.evaluate(r) for name, r in readers.items() if r is not None}
        metrics = final_metrics(state, parts.task, evaluations)
        version = world.on_chief(
            lambda: finish(config, folder, parts, splits, state, metrics, evaluations, tracker, world)
        )

    # 7. Last, the file that says that the run is complete.
    return _conclude(config, world, folder, state, metrics, None if version is None else version.version)


@contextlib.contextmanager
def _told_how_it_ends(tracker: tracking.Tracker) -> Iterator[None]:
    """Have the tracker know of a run that failed, was stopped, or waits for its workers to be replaced."""
    try:
        yield
    # Whatever ends a run, Ctrl-C too; it goes on its way.
    except BaseException as error:
        if launched_elastic() and (isinstance(error, Regroup) or is_lost_worker(error)):
            tracker.suspend()
            raise
        with contextlib.suppress(TfpipeError):
            tracker.finish("KILLED" if isinstance(error, StoppedError | KeyboardInterrupt) else "FAILED")
        raise


def _conclude(
    config: Config, world: World, folder: Path, state: TrainingState, metrics: dict[str, float], version: str | None
) -> TrainingResult:
    result = TrainingResult(
        output_dir=folder,
        run_id=state.run_id or "",
        registered_model=config.tracking.registered_model,
        model_version=version,
        metrics=metrics,
        samples_per_second=state.samples_seen / max(state.wall_time_s, 1e-9),
        workers=world.size,
        wall_time_s=state.wall_time_s,
    )
    say(world, "%s", summary_text(summary_rows(state.history, workers=world.size, wall_time_s=state.wall_time_s)))
    if world.is_chief:
        document = asdict(result)
        document.pop("output_dir")
        workspace.save_result(folder, document)
    return result


def _with_guards(
    observers: Sequence[Observer],
    config: Config,
    loop: TrainingLoop,
    state: TrainingState,
    commit: Commit,
    held: contextlib.ExitStack,
) -> list[Observer]:
    """Observers behind those that must see a step first: who waits for whom, and what an elastic run goes back to."""
    world, training = loop.world, config.training
    changes = held.enter_context(contextlib.closing(WorldChanges()))
    first: list[Observer] = [held.enter_context(StallWatch(world, patience_s=training.stall_s))]
    if launched_elastic():
        every = training.elastic_commit_steps
        first.append(CommitEverySteps(loop, state, commit, world, changes, every_steps=every))
    return [*first, Telemetry(loop, state), *observers]


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
    if state.best_epoch is None:
        # The run ended before its pruning did, and no epoch counts but the last.
        adopt_average(loop.optimizer)
        return len(state.history) - 1
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
                **{f"tfpipe.dvc.{name}": version for name, version in data_versions(config.data).items()},
                "tfpipe.git_commit": git_commit(),
                **{f"tfpipe.version.{name}": version for name, version in library_versions().items()},
            },
            extra_params={"workers": world.size, "placement": placement},
        )

    world.on_chief(start)
    return started[0]


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


def _nothing(_: Any) -> None:
    """The result of a context that is entered for its effect; not to be sent to other workers."""
