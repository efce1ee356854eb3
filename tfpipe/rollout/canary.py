"""The controller of a canary: reads what the replicas have counted, raises the share by steps, and decides.

It keeps nothing of its own: what it goes by stands in the ledger, so that one that was stopped goes on where it was.
Replicas never decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from tfpipe.core.errors import ConfigError, RoutingConflictError
from tfpipe.core.routing import Canary, Routing
from tfpipe.core.routing_changes import Origin, promote, rollback, start_canary, step_canary
from tfpipe.core.sequential import Limits, Verdict, judge
from tfpipe.ledger import Ledger
from tfpipe.rollout.evidence import Collected, read_counts
from tfpipe.rollout.replicas import ReplicaError

STEPS = (0.01, 0.05, 0.25, 0.5)


class Watched(Protocol):
    """The services that the controller reads and tells; see `tfpipe.rollout.replicas.Replicas`."""

    def metrics(self) -> dict[str, str | ReplicaError]:
        """The exposition of each."""
        ...

    def push(self, routing: Routing, *, without: Sequence[str] = ()) -> dict[str, str | ReplicaError]:
        """Give a document to each."""
        ...


@dataclass(frozen=True)
class Plan:
    """How a canary goes.

    Attributes:
        steps: Shares, growing.
        limits: What decides.
        step_s: Shortest time at a step.
        step_requests: Fewest requests that the version answers at a step.
        poll_s: Time between two readings.
    """

    steps: tuple[float, ...] = STEPS
    limits: Limits = field(default_factory=Limits)
    step_s: float = 60.0
    step_requests: int = 100
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("step_s", "poll_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected seconds above 0, received {getattr(self, name):g}.")
        if self.step_requests < 1:
            raise ConfigError(f"step_requests: expected at least 1, received {self.step_requests}.")


@dataclass(frozen=True)
class Progress:
    """Where a canary stands.

    Attributes:
        routing: The document that holds.
        verdict: On what was counted so far; None before the first reading.
        silent: Services that could not be read, and why.
        ended: Whether there is no more to come.
    """

    routing: Routing
    verdict: Verdict | None = None
    silent: tuple[str, ...] = ()
    ended: bool = False


class Controller:
    """Runs one canary; see the module.

    Args:
        ledger: Where each step is written.
        replicas: Whose counts decide.
        who: As the ledger is to name it.
        sleep: Waits for seconds.
        now: The time of day.
        tell: Called at each reading and step.
    """

    def __init__(
        self,
        ledger: Ledger,
        replicas: Watched,
        *,
        who: str,
        sleep: Callable[[float], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._ledger, self._replicas, self._who = ledger, replicas, who
        self._sleep, self._now, self._tell = sleep, now, tell

    def begin(self, routing: Routing, version: str, plan: Plan, why: str) -> Routing:
        """Give the version its first share, or find the canary that is under way.

        Args:
            routing: The document that holds.
            version: To try.
            plan: Its steps and limits hold for a canary that begins; one under way keeps those it began with.
            why: Reason of one that begins.

        Raises:
            RegistryError: Another version's canary is under way, or the version cannot be tried.
            RoutingConflictError: Somebody has changed the routing meanwhile.
        """
        if routing.canary is not None and routing.canary.version == version:
            return routing
        collected = Collected()
        self._read(collected, routing.model)
        origin, limits = Origin(self._who, self._now(), why), asdict(plan.limits)
        begun = start_canary(routing, version, plan.steps, origin, limits=limits, evidence=collected.to_dict())
        return self._write(begun)

    def run(self, routing: Routing, plan: Plan) -> Routing:
        """Go on with a canary until it is decided.

        Returns:
            The document that ended it: a promotion, a rollback, or a change that somebody else made.
        """
        canary = _of(routing)
        collected = Collected.from_dict(canary.evidence)
        at_begin = collected.of(canary.version).errors.total
        while True:
            silent = self._read(collected, routing.model)
            held = self._ledger.newest(routing.model)
            if held is not None and held.id != routing.id:
                self._tell(Progress(held, ended=True))
                return held
            limits = Limits(**canary.limits)
            verdict = judge(collected.of(canary.version), collected.of(canary.baseline), limits)
            self._tell(Progress(routing, verdict, silent))
            requests = collected.of(canary.version).errors.total - at_begin
            after = self._after(routing, plan, verdict, requests, collected)
            if after is not None:
                routing = self._write(after)
                if routing.canary is None:
                    self._tell(Progress(routing, verdict, ended=True))
                    return routing
                canary, at_begin = routing.canary, collected.of(canary.version).errors.total
                self._tell(Progress(routing, verdict))
            self._sleep(plan.poll_s)

    def _after(
        self, routing: Routing, plan: Plan, verdict: Verdict, requests: float, collected: Collected
    ) -> Routing | None:
        canary = _of(routing)
        origin = Origin(self._who, self._now(), verdict.reason[:1000])
        if verdict.outcome == "roll_back":
            return rollback(routing, origin, canary.baseline)
        held_s = (self._now() - datetime.fromisoformat(routing.when)).total_seconds()
        if held_s < plan.step_s or requests < plan.step_requests:
            return None
        if canary.step + 1 < len(canary.steps):
            return step_canary(routing, origin, evidence=collected.to_dict())
        return promote(routing, canary.version, origin) if verdict.outcome == "promote" else None

    def _read(self, collected: Collected, model: str) -> tuple[str, ...]:
        silent = []
        for url, exposition in self._replicas.metrics().items():
            if isinstance(exposition, ReplicaError):
                silent.append(str(exposition))
            else:
                collected.add(url, read_counts(exposition, model))
        return tuple(silent)

    def _write(self, routing: Routing) -> Routing:
        written = self._ledger.append(routing)
        # So that they need not poll; those that do not confirm will.
        self._replicas.push(written)
        return written


def _of(routing: Routing) -> Canary:
    if routing.canary is None:
        raise RoutingConflictError(f"canary of {routing.model!r}: expected one under way, found none.")
    return routing.canary
