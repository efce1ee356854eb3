"""Which rows run together, and when: the policy alone, without a clock, threads or sockets.

Blocks of rows wait by bucket: only rows of one bucket (one shape, one kind of answer) share a batch. The bucket whose
first block has waited longest is next, so that no bucket starves. Without a window whatever waits is run as soon as a
session is free: a lone request never waits for company, and a busy service batches by itself.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from serving.errors import DeadlineError, QueueFullError

Content = TypeVar("Content")
Reason = Literal["full", "window", "free"]

# Weight of the newest batch in what a batch is expected to take.
_NEWEST = 0.2
# So many of the newest batches are what is usual.
_USUAL = 9


@dataclass(frozen=True)
class Limits:
    """What may be run and wait.

    Attributes:
        max_batch_size: Most rows of one batch; a block that is larger runs alone.
        max_rows: Most rows that are admitted and not yet answered.
        max_bytes: Most bytes of them.
        max_delay_s: Longest time for which rows wait for company; 0: they never do.
    """

    max_batch_size: int
    max_rows: int
    max_bytes: int
    max_delay_s: float = 0.0


@dataclass(eq=False, slots=True)
class Block(Generic[Content]):
    """Rows of one request that run in one batch.

    Attributes:
        content: What the session takes.
        rows: How many rows it is.
        bucket: Blocks of equal buckets may share a batch.
        arrived_s: When it joined the queue.
        deadline_s: When nobody waits for it any more.
        waiter: Where the result goes; the policy does not look at it.
    """

    content: Content
    rows: int
    bucket: Hashable
    arrived_s: float
    deadline_s: float = float("inf")
    waiter: Any = None


@dataclass(frozen=True)
class Batch(Generic[Content]):
    """Blocks to run together.

    Attributes:
        blocks: At least one, in the order in which they came.
        rows: Of all blocks.
        reason: "full": as many rows as a batch may have; "window": the first one has waited long enough; "free": there
            is no window, and a session was free.
    """

    blocks: list[Block[Content]]
    rows: int
    reason: Reason


class BatchQueue(Generic[Content]):
    """What waits for a session.

    Attributes:
        rows: Rows that wait.
    """

    def __init__(self, max_batch_size: int, max_delay_s: float = 0.0) -> None:
        self.rows = 0
        self._max_rows, self._max_delay_s = max_batch_size, max_delay_s
        self._buckets: dict[Hashable, deque[Block[Content]]] = {}

    def put(self, block: Block[Content]) -> None:
        """Add a block at the end of its bucket."""
        self._buckets.setdefault(block.bucket, deque()).append(block)
        self.rows += block.rows

    def discard(self, block: Block[Content]) -> None:
        """Take a block out, if it still waits: nobody waits for its answer."""
        waiting = self._buckets.get(block.bucket, ())
        if block in waiting:
            self._take(block.bucket, {block})

    def drop_late(self, now_s: float, run_s: float = 0.0) -> list[Block[Content]]:
        """Take out the blocks that cannot be answered before their deadline any more.

        A batch that ends too late for its client is time lost to all behind it: soon it is too late for them as well.

        Args:
            now_s: The time.
            run_s: Seconds that a batch takes. Where all that waits is late by them, only what has expired is taken out:
                one batch must show whether they still hold.
        """
        blocks = self.blocks()
        late = [block for block in blocks if block.deadline_s <= now_s + run_s]
        if len(late) == len(blocks):
            late = [block for block in blocks if block.deadline_s <= now_s]
        for bucket in {block.bucket for block in late}:
            self._take(bucket, {block for block in late if block.bucket == bucket})
        return late

    def next_batch(self, now_s: float) -> Batch[Content] | None:
        """Take out what a free session should run now; None where nothing waits, or all of it waits for company."""
        batch = self._due(now_s)
        if batch is not None:
            self._take(batch.blocks[0].bucket, set(batch.blocks))
        return batch

    def is_due(self, now_s: float) -> bool:
        """Whether `next_batch` would give one."""
        # Without a window whatever waits is due.
        return bool(self._buckets) and (not self._max_delay_s or self._due(now_s) is not None)

    def due_s(self) -> float | None:
        """When the window of what has waited longest ends; None where nothing waits."""
        oldest_s = self.oldest_s()
        return None if oldest_s is None else oldest_s + self._max_delay_s

    def oldest_s(self) -> float | None:
        """When the block that has waited longest arrived; None where nothing waits."""
        return min((waiting[0].arrived_s for waiting in self._buckets.values()), default=None)

    def blocks(self) -> list[Block[Content]]:
        """All that wait."""
        return [block for waiting in self._buckets.values() for block in waiting]

    def _due(self, now_s: float) -> Batch[Content] | None:
        for bucket in sorted(self._buckets, key=lambda bucket: self._buckets[bucket][0].arrived_s):
            blocks, rows = self._first(bucket)
            if rows >= self._max_rows:
                return Batch(blocks, rows, "full")
            if blocks[0].arrived_s + self._max_delay_s <= now_s:
                return Batch(blocks, rows, "window" if self._max_delay_s else "free")
        return None

    def _first(self, bucket: Hashable) -> tuple[list[Block[Content]], int]:
        """The first block, and those behind it that fit beside it; one that does not is the first soon."""
        blocks: list[Block[Content]] = []
        rows = 0
        for block in self._buckets[bucket]:
            if not blocks or rows + block.rows <= self._max_rows:
                blocks.append(block)
                rows += block.rows
            if rows >= self._max_rows:
                break
        return blocks, rows

    def _take(self, bucket: Hashable, blocks: set[Block[Content]]) -> None:
        waiting = self._buckets[bucket]
        self.rows -= sum([block.rows for block in blocks])
        # As a rule they are the first ones.
        while waiting and waiting[0] in blocks:
            blocks.remove(waiting.popleft())
        if blocks:
            self._buckets[bucket] = waiting = deque(block for block in waiting if block not in blocks)
        if not waiting:
            del self._buckets[bucket]


@dataclass
class Pace:
    """How long batches take, learned from those that ran.

    Attributes:
        batch_s: Seconds of a batch; 0 until one ran.
        row_s: Seconds of a row of a batch.
        turn_s: Seconds by which a row keeps those behind it waiting: with what is between batches, less where several
            run side by side.
        usual_batch_s: Median seconds of the newest batches. Where something else has the core for a moment, one batch
            takes a hundred times as long, and the average says so for many more.
        usual_row_s: Likewise, of a row of a batch.
        by_rows: Batches of each number of rows, and the seconds of all of them.
    """

    batch_s: float = 0.0
    row_s: float = 0.0
    turn_s: float = 0.0
    usual_batch_s: float = 0.0
    usual_row_s: float = 0.0
    by_rows: dict[int, tuple[int, float]] = field(default_factory=dict)
    _newest: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_USUAL))

    def record(self, rows: int, seconds: float, turn_s: float | None = None) -> None:
        """Learn from one batch.

        Args:
            rows: Of it.
            seconds: It ran.
            turn_s: Seconds by which it kept others waiting; None for those that it ran.
        """
        turn_s = seconds if turn_s is None else turn_s
        count, total_s = self.by_rows.get(rows, (0, 0.0))
        self.by_rows[rows] = count + 1, total_s + seconds
        self._newest.append((seconds, seconds / rows))
        middle = len(self._newest) // 2
        self.usual_batch_s = sorted([batch_s for batch_s, _ in self._newest])[middle]
        self.usual_row_s = sorted([row_s for _, row_s in self._newest])[middle]
        if self.batch_s == 0.0:
            self.batch_s, self.row_s, self.turn_s = seconds, seconds / rows, turn_s / rows
            return
        self.batch_s += _NEWEST * (seconds - self.batch_s)
        self.row_s += _NEWEST * (seconds / rows - self.row_s)
        self.turn_s += _NEWEST * (turn_s / rows - self.turn_s)

    def least_s(self, rows: int) -> float:
        """Seconds that the next batch takes at least, where so many rows wait."""
        return min(self.batch_s, self.row_s * rows)

    def wait_s(self, rows_ahead: int) -> float:
        """Seconds until an answer, where so many rows are before it."""
        return self.batch_s + self.turn_s * rows_ahead


@dataclass
class Room:
    """What is admitted and not yet answered.

    Attributes:
        limits: Its bounds.
        rows: Rows admitted.
        bytes: Bytes of their requests.
        pace: How fast it empties.
    """

    limits: Limits
    rows: int = 0
    bytes: int = 0
    pace: Pace = field(default_factory=Pace)

    def admit(self, rows: int, size: int, *, now_s: float, deadline_s: float) -> None:
        """Take in what a request holds, or refuse it at once.

        Args:
            rows: At least this many rows will be run.
            size: Bytes that it keeps in memory.
            now_s: The time.
            deadline_s: When nobody waits for the answer any more.

        Raises:
            QueueFullError: There is no room; says when there should be.
            DeadlineError: What is before it will take longer than its client waits.
        """
        self.check(rows, size, now_s=now_s, deadline_s=deadline_s)
        self.rows += rows
        self.bytes += size

    def check(self, rows: int, size: int, *, now_s: float, deadline_s: float) -> None:
        """Refuse what `admit` would refuse now."""
        limits = self.limits
        # What comes to an empty room is taken whatever its size: it would be refused for ever.
        if self.rows and (self.rows + rows > limits.max_rows or self.bytes + size > limits.max_bytes):
            raise QueueFullError(
                f"queue: expected at most {limits.max_rows} rows and {limits.max_bytes} bytes to wait, "
                f"received {rows} rows of {size} bytes beside {self.rows} of {self.bytes}.",
                retry_after_s=max(self.pace.turn_s * self.rows, 0.0),
            )
        wait_s = self.pace.wait_s(self.rows)
        if self.rows and now_s + wait_s > deadline_s:
            raise DeadlineError(
                f"deadline: expected an answer within {max(deadline_s - now_s, 0.0) * 1000:.0f} ms, but what waits "
                f"before it takes about {wait_s * 1000:.0f} ms.",
                wait_ms=round(wait_s * 1000),
            )

    def leave(self, rows: int, size: int) -> None:
        """What was admitted is answered, or given up."""
        self.rows -= rows
        self.bytes -= size
