"""The workers of a run. The only file that imports Horovod."""

import contextlib
import functools
import math
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from tfpipe import launcher
from tfpipe import placement as places
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, TfpipeError, TrainingError
from tfpipe.placement import Machine, Placement

T = TypeVar("T")

# Gradients of the last layers are sent while those of the first are still computed; with one group all would wait.
_GROUPS = 5
# Horovod's settings that follow a run; `tfpipe.training.tuning` chooses them.
_TUNED = frozenset({"HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CACHE_CAPACITY"})
# What each launcher tells its workers.
_SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# Between the first worker that is ready and the last: importing TensorFlow from a cold network disk takes minutes.
_START_PATIENCE_S = 300.0


@dataclass(frozen=True)
class World:
    """The workers that train together; by default this process alone, for which every method is a no-op.

    Attributes:
        rank: Number of this worker, from 0.
        size: Number of workers.
        local_rank: Number of this worker on its machine.
        local_size: Workers on this machine.
        placement: Processors and threads of this worker.
        tunable: Horovod's own settings that may be changed while training; none where the user set one of them, or
            where this Horovod cannot be started anew.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    placement: Placement | None = field(default=None, compare=False)
    tunable: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker owns tracking, checkpoints and what the user sees."""
        return self.rank == 0

    def allreduce_sum(self, tensors: Sequence[Any]) -> list[Any]:
        """Sum tensors over all workers, in fused groups. Works inside a tf.function, and can be differentiated.

        Args:
            tensors: Dense, the same shapes on every worker.

        Returns:
            The sums, bit-equal on every worker.
        """
        if self.size == 1:
            return list(tensors)
        import horovod.tensorflow as hvd
        import tensorflow as tf

        # With a gradient of our own: that of Horovod's operation would be named by Keras's layers.
        @tf.custom_gradient
        def total(*group: Any) -> tuple[Any, Callable[..., Any]]:
            with _operation("allreduce") as name:
                sums = hvd.grouped_allreduce(group, op=hvd.Sum, name=name)
            return sums, lambda *gradients: self.allreduce_sum(gradients)

        return [sum_ for group in in_groups(tensors) for sum_ in total(*group)]

    def allreduce_max(self, values: Any) -> Any:
        """The largest of all workers' values, element by element; a NumPy array, for use between steps."""
        if self.size == 1:
            return values
        import horovod.tensorflow as hvd

        return hvd.allreduce(values, op=hvd.Max).numpy()

    def alltoall(self, tensor: Any) -> Any:
        """Send the r-th of equal parts of a tensor to worker r, and put together what the others send, in rank order.

        Args:
            tensor: (n, ...), n a multiple of the number of workers, the same shape on every worker.
        """
        if self.size == 1:
            return tensor
        import horovod.tensorflow as hvd

        with _operation("alltoall") as name:
            return hvd.alltoall(tensor, name=name)

    def allgather(self, tensor: Any) -> Any:
        """Every worker's tensor in rank order, along the first axis, which may differ in length."""
        if self.size == 1:
            return tensor
        import horovod.tensorflow as hvd

        with _operation("allgather") as name:
            return hvd.allgather(tensor, name=name)

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        """Give every worker the chief's values of Keras variables."""
        if self.size == 1:
            return
        _broadcasting()([variable.value for variable in variables])

    def broadcast_object(self, value: T) -> T:
        """The chief's value, on every worker; anything that can be pickled."""
        if self.size == 1:
            return value
        import horovod.tensorflow as hvd

        return hvd.broadcast_object(value, root_rank=0)  # type: ignore[no-any-return]

    def gather_objects(self, value: T) -> list[T]:
        """Every worker's value in rank order, on every worker."""
        if self.size == 1:
            return [value]
        import horovod.tensorflow as hvd

        return hvd.allgather_object(value)  # type: ignore[no-any-return]

    def leave(self) -> None:
        """End this worker's part, so that `join` can find the workers that are there then."""
        if self.size > 1 or launched_elastic():
            import horovod.tensorflow as hvd

            hvd.shutdown()

    def describe_placement(self) -> str:
        """Where every worker runs, in one line; for all workers to call alike."""
        mine = None if self.placement is None else (host_name(), self.placement)
        return places.describe([place for place in self.gather_objects(mine) if place is not None])

    def restart(self, settings: Mapping[str, str]) -> None:
        """Start Horovod anew under other settings of its own, between two steps; once, for all workers to call alike.

        Compiled steps go on to work.

        Args:
            settings: HOROVOD_* variables and their values; of `tunable`.
        """
        import horovod.tensorflow as hvd

        with self._meeting_place() as place:
            hvd.shutdown()
            launchers = {name: os.environ[name] for name in place}
            os.environ.update({**settings, **place})
            hvd.init()
            os.environ.update(launchers)
            # Nobody may leave before all have come.
            self.gather_objects(None)

    @contextlib.contextmanager
    def _meeting_place(self) -> Iterator[dict[str, str]]:
        """The variables of a server of the chief's own, where workers find one another.

        Not horovodrun's: when a worker has found the others, that one forgets which other groups of workers had, and
        keeps addresses of the first start, to which a second one would connect.
        """
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        seats = self.gather_objects(
            SimpleNamespace(
                hostname=host_name(), size=self.size, local_size=self.local_size, local_rank=self.local_rank,
                cross_size=int(os.environ["HOROVOD_CROSS_SIZE"]),
            )
        )  # fmt: skip
        with contextlib.ExitStack() as open_:
            address: tuple[str, int] | None = None
            if self.is_chief:
                server = open_.enter_context(RendezvousHTTPServer(("", 0), RendezvousHandler, 0))
                server.init(seats)
                threading.Thread(target=server.serve_forever, daemon=True, name="meeting place").start()
                open_.callback(server.shutdown)
                address = (launcher.own_address(launcher_server() or ("127.0.0.1", 1)), server.server_port)
            host, port = self.broadcast_object(address) or ("", 0)
            yield {"HOROVOD_GLOO_RENDEZVOUS_ADDR": host, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}

    def together(self, action: Callable[[], T]) -> T:
        """Run something that can fail on some workers only, and fail on all if it failed on one.

        Raises:
            TfpipeError: This worker's own error; on a worker that had none, that of the lowest rank, with its name.
        """
        result: list[T] = []
        mine: TfpipeError | None = None
        try:
            result.append(action())
        except TfpipeError as error:
            mine = error
        except OSError as error:
            mine = TrainingError(f"{error.filename or 'input/output'}: {error.strerror or error}.")
        verdicts = self.gather_objects((host_name(), _portable(mine)))
        if mine is not None:
            raise mine
        for rank, (host, failure) in enumerate(verdicts):
            if failure is not None:
                kind, message = failure
                raise kind(f"worker {rank} ({host}): {message}")
        return result[0]

    def on_chief(self, action: Callable[[], T]) -> T:
        """Run on the chief; give its result to all, or its error.

        Raises:
            TfpipeError: What the chief raised.
        """
        result = self.together(lambda: action() if self.is_chief else None)
        return self.broadcast_object(result)  # type: ignore[return-value]  # every rank gets the chief's T


class Regroup(Exception):  # noqa: N818  # a turn that an elastic run takes, not a failure
    """The workers have changed; those that are there train on from the last commit."""


class WorldChanges:
    """Listens to the launcher of an elastic run: have workers come, or are some to go?

    Attributes:
        pending: Whether they have since this was made; known to the chief alone.
    """

    def __init__(self) -> None:
        self.pending = False
        if not launched_elastic():
            return
        from horovod.common.elastic import notification_manager

        notification_manager.init()
        notification_manager.register_listener(self)

    def on_hosts_updated(self, timestamp: float, result: Any) -> None:
        """Horovod's entry."""
        self.pending = True

    def close(self) -> None:
        """Listen no more."""
        if launched_elastic():
            from horovod.common.elastic import notification_manager

            notification_manager.remove_listener(self)


def launched() -> bool:
    """Whether a launcher started this process as one of several workers."""
    return any(name in os.environ for name in _SIZE_VARIABLES)


def launched_elastic() -> bool:
    """Whether `horovodrun` can replace workers of this run."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error means that another worker is gone."""
    import tensorflow as tf

    if any(kind.__name__ == "HorovodInternalError" for kind in type(error).__mro__):
        return True
    # Not by operation: horovod.tensorflow.elastic looks for some of them, and takes the loss of a grouped allreduce
    # for the end of training. A function that sends one thing may leave out the operation: then the place in Gloo's
    # source says whose error it is.
    return isinstance(error, tf.errors.OpError) and any(name in str(error) for name in ("Horovod", "gloo/transport"))


def in_groups(tensors: Sequence[T]) -> list[list[T]]:
    """The groups in which gradients travel."""
    size = math.ceil(len(tensors) / _GROUPS) or 1
    return [list(tensors[start : start + size]) for start in range(0, len(tensors), size)]


def horovod_build() -> dict[str, Any]:
    """Version of Horovod and what it was compiled with.

    Raises:
        ImportError: It is missing, or was compiled against another TensorFlow.
    """
    import horovod.tensorflow as hvd

    # `horovod.__version__` would be asked of our ./horovod folder where Horovod is not installed.
    built = {"gloo": hvd.gloo_built(), "mpi": hvd.mpi_built(), "nccl": hvd.nccl_built()}
    return {"version": metadata.version("horovod"), **{name: bool(value) for name, value in built.items()}}


def launched_rank() -> int:
    """This worker's rank before anything is imported, as the launcher tells it; 0 where there is none."""
    return int(os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))))


def launched_local_rank() -> int:
    """Its number on its machine before anything is imported, as the launcher tells it; 0 where there is none."""
    return int(os.environ.get("HOROVOD_LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))


def host_name() -> str:
    """This machine, by the name that the launcher was given."""
    return os.environ.get("HOROVOD_HOSTNAME", platform.node())


def join(
    *,
    placement: Literal["auto", "none"] = "auto",
    threads: int | None = None,
    again: bool = False,
    timeline: Path | None = None,
) -> World:
    """Join the other workers of `horovodrun`; alone where the process was started without it.

    A process that trains several times joins once: further calls give what is there.

    Call it before TensorFlow runs its first operation and so starts its threads: each worker of a machine is bound to
    its own share of the cores, since workers left to the scheduler lose a quarter of their speed.

    Args:
        placement: "none" leaves cores and threads as the process was given them.
        threads: Of TensorFlow's pools; None: as many as the worker's cores, and no more than the container's quota.
        again: After `World.leave`; the process keeps its cores and its GPU.
        timeline: JSON file in which the chief notes what was sent when, until its process ends.

    Raises:
        ConfigError: Started by horovodrun, but Horovod cannot be imported: never N separate trainings; or
            this machine's host name cannot be reached by the others; or a timeline is asked for where there is one
            worker only, or where its file cannot be written.
        TrainingError: Other workers did not start, or the launcher cannot be reached.
    """
    if not launched():
        _check_timeline(timeline, World())
        return World(placement=_take_place(placement, threads))
    again = again or _has_joined()
    if timeline is not None:
        _ask_for_timeline(timeline)
    server = launcher_server()
    if not again:
        launcher.end_with_launcher(_has_joined)
        if server is not None:
            launcher.check_host_name(platform.node(), server)
    mine = _take_place("none" if again else placement, threads)
    tunable = _tunable()
    _set_defaults(tunable)
    hvd = _import_horovod()
    if server is not None and not launched_elastic() and not again:
        launcher.meet(
            server,
            rank=launched_rank(),
            size=int(os.environ["HOROVOD_SIZE"]),
            host=host_name(),
            patience_s=_START_PATIENCE_S,
        )
    hvd.init()
    if again:
        # The launcher's word is from the start; what asks for the rank before `join` must get the present one.
        os.environ["HOROVOD_RANK"] = str(hvd.rank())
    else:
        _one_gpu_each(hvd.local_rank())
    # NCCL's communicators were not tried.
    tunable = tunable if hvd.size() > 1 and not hvd.nccl_built() else frozenset()
    world = World(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), mine, tunable)
    _check_timeline(timeline, world)
    return world


def _set_defaults(tunable: frozenset[str]) -> None:
    """Horovod's settings where the user chose none."""
    # Fewer entries than tensors, and Horovod negotiates anew each step.
    os.environ.setdefault("HOROVOD_CACHE_CAPACITY", "8192")
    if not tunable:
        # The default wakes a thread every millisecond, which cost a step about 6 % on two cores. Not where it is tuned:
        # Horovod crashes where a start sets the cycle and a later one the fusion threshold.
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "5")
    if launched_elastic():
        # Workers wait so long for one that joins, whose start includes importing TensorFlow, and abort otherwise; and
        # for one that is gone without a word. Horovod's own 30 seconds were too few on a busy machine.
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "60")


def _import_horovod() -> Any:
    try:
        # Not `import horovod`: that finds our ./horovod folder of launch assets.
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise ConfigError(
            f"started by horovodrun as one of {os.environ.get('HOROVOD_SIZE', 'several')} workers, "
            f"but Horovod cannot be imported ({error}). Install it with `make setup`, or start one process without it."
        ) from error
    return hvd


def _has_joined() -> bool:
    """Whether this process is one of several workers already."""
    # It may be half imported, where a thread asks.
    is_initialized = getattr(sys.modules.get("horovod.tensorflow"), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())


def _ask_for_timeline(path: Path) -> None:
    if _has_joined():
        raise ConfigError(
            "training.timeline: expected a process that has not trained before, as Horovod reads it when it starts."
        )
    # Horovod reads it when it starts. Not hvd.start_timeline: a run that began one so did not end.
    os.environ["HOROVOD_TIMELINE"] = str(path.absolute())
    if launched_rank() == 0:
        # What is wrong with it is told later, to all: the others would wait for a worker that ends here.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)


def _check_timeline(path: Path | None, world: World) -> None:
    if path is None:
        return
    if world.size == 1:
        raise ConfigError(
            "training.timeline: expected several workers, received one, which sends nothing. "
            "Start them with horovodrun, or leave the key out; --profile shows where the time of one worker goes."
        )
    # Horovod itself goes on without a file, and only logs that.
    world.on_chief(lambda: atomic.writable_file(path.absolute(), where="training.timeline"))


def launcher_server() -> tuple[str, int] | None:
    """Where horovodrun keeps its keys; None under MPI."""
    address, port = (os.environ.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}") for name in ("ADDR", "PORT"))
    return None if address is None or port is None else (address, int(port))


def _tunable() -> frozenset[str]:
    """Settings that `World.restart` may change; none where the user chose any of them.

    MPI cannot be started twice in a process, an elastic job starts Horovod anew by itself, a timeline would be cut.
    """
    chosen = _TUNED | {"HOROVOD_AUTOTUNE", "HOROVOD_TIMELINE", "HOROVOD_ELASTIC"}
    free = os.environ.get("HOROVOD_CONTROLLER") == "gloo" and chosen.isdisjoint(os.environ)
    return _TUNED if free else frozenset()


def _take_place(mode: Literal["auto", "none"], threads: int | None) -> Placement:
    """Bind this process to its share of the machine, and size TensorFlow's pools by it."""
    machine = places.read_machine(os.sched_getaffinity(0))
    if mode == "none":
        machine = Machine(machine.processors)
    local_size = int(os.environ.get("HOROVOD_LOCAL_SIZE", os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")))
    if launched() and mode == "auto" and not places.bound_by_launcher():
        mine = places.place(machine, local_rank=launched_local_rank(), local_size=local_size, threads=threads)
        os.sched_setaffinity(0, mine.processors)
    else:
        mine = places.keep(machine, local_size=local_size, threads=threads)
    if mine.threads is not None:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            # TensorFlow reads them at its first operation. What the user set in the environment stands, unless the
            # configuration says more.
            os.environ[name] = str(mine.threads) if threads else os.environ.get(name, str(mine.threads))
    return mine


def _one_gpu_each(local_rank: int) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[local_rank % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)


@contextlib.contextmanager
def _operation(kind: str) -> Iterator[str]:
    """A name for an operation of Horovod's, which waits until every worker has sent one of that name.

    By itself it takes one from the tensor, and so from Keras, which numbers layers by all that the process has built: a
    worker that had built one model more than the others would wait for ever. Here TensorFlow counts the operations of a
    graph, outside the scopes of layers.
    """
    import tensorflow as tf

    with tf.compat.v1.get_default_graph().name_scope(None):
        yield f"tfpipe_{kind}"


@functools.cache
def _broadcasting() -> Callable[[list[Any]], None]:
    """Gives variables the chief's values. Kept, as user callbacks ask for it after each step."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    # Compiled, so that they travel together. Not hvd.broadcast_variables, which sends them by the layers' names.
    @tf.function(autograph=False)
    def broadcast(variables: list[Any]) -> None:
        for variable in variables:
            with _operation("broadcast") as name:
                variable.assign(hvd.broadcast(variable, root_rank=0, name=name))

    return broadcast  # type: ignore[no-any-return]


def _portable(error: TfpipeError | None) -> tuple[type[TfpipeError], str] | None:
    return None if error is None else (type(error), str(error))
