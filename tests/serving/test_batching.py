"""The policy of batches: pure, on a clock of its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching import BatchQueue, Block, Limits, Room
from serving.errors import DeadlineError, QueueFullError


def block(arrived_s: float, *, rows: int = 1, bucket: str = "a", deadline_s: float = float("inf")) -> Block[str]:
    return Block(f"{bucket}{arrived_s}", rows, bucket, arrived_s, deadline_s)


def queue_of(*blocks: Block[str], max_batch_size: int = 4, max_delay_s: float = 0.0) -> BatchQueue[str]:
    queue: BatchQueue[str] = BatchQueue(max_batch_size, max_delay_s)
    for one in blocks:
        queue.put(one)
    return queue


def test_a_lone_block_is_run_at_once():
    batch = queue_of(block(0.0)).next_batch(0.0)

    assert (batch.rows, batch.reason) == (1, "free")


def test_what_waits_is_run_together_up_to_the_largest_batch():
    queue = queue_of(*(block(time_s / 10) for time_s in range(6)))

    batches = [queue.next_batch(1.0), queue.next_batch(1.0)]

    assert [(batch.rows, batch.reason) for batch in batches] == [(4, "full"), (2, "free")]
    assert queue.next_batch(1.0) is None


def test_a_block_that_does_not_fit_is_the_first_of_the_next_batch():
    queue = queue_of(block(0.0, rows=3), block(0.1, rows=2), block(0.2, rows=1))

    assert [one.arrived_s for one in queue.next_batch(1.0).blocks] == [0.0, 0.2]
    assert [one.arrived_s for one in queue.next_batch(1.0).blocks] == [0.1]


def test_a_block_larger_than_a_batch_runs_alone():
    queue = queue_of(block(0.0, rows=9), block(0.1))

    assert queue.next_batch(1.0).rows == 9


def test_the_bucket_that_has_waited_longest_is_next():
    queue = queue_of(block(0.0, bucket="b"), block(0.1, bucket="a"), block(0.2, bucket="b"))

    assert [one.bucket for one in queue.next_batch(1.0).blocks] == ["b", "b"]


def test_a_window_waits_for_company_and_no_longer():
    queue = queue_of(block(1.0), block(1.05), max_delay_s=0.1)

    assert queue.next_batch(1.09) is None
    assert queue.due_s() == pytest.approx(1.1)
    assert queue.next_batch(1.1).reason == "window"


def test_a_full_batch_does_not_wait_for_its_window_nor_for_another_bucket():
    queue = queue_of(block(0.9, bucket="b"), *(block(1.0) for _ in range(4)), max_delay_s=0.5)

    assert queue.next_batch(1.0).reason == "full"
    assert queue.next_batch(1.0) is None


def test_what_nobody_waits_for_leaves_the_queue():
    gone, late, kept = block(0.0), block(0.1, deadline_s=0.5), block(0.2)
    queue = queue_of(gone, late, kept)

    queue.discard(gone)
    queue.discard(gone)

    assert queue.drop_late(0.5) == [late]
    assert queue.next_batch(1.0).blocks == [kept]
    assert queue.rows == 0


def test_what_would_be_answered_too_late_leaves_the_queue_and_is_not_run():
    late, other_late, kept = (
        block(0.0, deadline_s=2.0),
        block(0.1, bucket="b", deadline_s=1.5),
        block(0.2, deadline_s=2.1),
    )
    queue = queue_of(late, other_late, kept)

    assert queue.drop_late(1.0, run_s=1.0) == [late, other_late]
    assert queue.next_batch(1.0).blocks == [kept]


def test_where_all_would_be_too_late_they_are_run_as_batches_may_have_become_faster():
    expired, late = block(0.0, deadline_s=0.9), block(0.1, deadline_s=1.2)
    queue = queue_of(expired, late)

    assert queue.drop_late(1.0, run_s=100.0) == [expired]
    assert queue.next_batch(1.0).blocks == [late]


@settings(max_examples=200)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5), st.sampled_from("abc")), max_size=30),
    max_batch_size=st.integers(1, 8),
    delay_s=st.sampled_from([0.0, 0.1]),
)
def test_every_block_is_run_once_in_a_batch_of_its_bucket(arrivals, max_batch_size, delay_s):
    blocks = [block(when, rows=rows, bucket=bucket) for when, rows, bucket in sorted(arrivals)]
    queue = queue_of(*blocks, max_batch_size=max_batch_size, max_delay_s=delay_s)

    batches = []
    while (batch := queue.next_batch(2.0)) is not None:
        batches.append(batch)

    assert sorted(map(id, (one for batch in batches for one in batch.blocks))) == sorted(map(id, blocks))
    for batch in batches:
        assert len({one.bucket for one in batch.blocks}) == 1
        assert batch.rows <= max_batch_size or len(batch.blocks) == 1
    assert queue.rows == 0


def room_of(*, max_rows: int = 4, max_bytes: int = 100) -> Room:
    return Room(Limits(8, max_rows, max_bytes))


def test_a_full_queue_says_when_there_should_be_room():
    room = room_of()
    # With as long again until the next begins.
    room.pace.record(8, 2.0, turn_s=4.0)
    room.admit(4, 10, now_s=0.0, deadline_s=60.0)

    with pytest.raises(QueueFullError, match="expected at most 4 rows and 100 bytes to wait") as refused:
        room.admit(1, 10, now_s=0.0, deadline_s=60.0)

    assert refused.value.retry_after_s == pytest.approx(2.0)
    with pytest.raises(QueueFullError):
        room.check(1, 0, now_s=0.0, deadline_s=60.0)
    room.leave(4, 10)
    room.check(1, 0, now_s=0.0, deadline_s=60.0)
    assert room.rows == 0
    room.admit(1, 10, now_s=0.0, deadline_s=60.0)


def test_bytes_are_bounded_too():
    room = room_of()
    room.admit(1, 90, now_s=0.0, deadline_s=60.0)

    with pytest.raises(QueueFullError):
        room.admit(1, 20, now_s=0.0, deadline_s=60.0)


def test_what_cannot_be_answered_in_time_is_refused_at_once():
    room = room_of(max_rows=100)
    room.pace.record(1, 1.0)
    room.admit(3, 1, now_s=0.0, deadline_s=60.0)

    with pytest.raises(DeadlineError, match="within 2000 ms, but what waits before it takes about 4000 ms"):
        room.admit(1, 1, now_s=10.0, deadline_s=12.0)
    room.admit(1, 1, now_s=10.0, deadline_s=15.0)


def test_what_is_between_batches_counts_for_those_who_wait():
    room = room_of(max_rows=100)
    # They run for half of their time.
    for _ in range(100):
        room.pace.record(2, 1.0, turn_s=2.0)
    room.admit(6, 1, now_s=0.0, deadline_s=60.0)

    with pytest.raises(DeadlineError, match="takes about 7000 ms"):
        room.admit(1, 1, now_s=0.0, deadline_s=6.9)
    assert room.pace.least_s(1) == pytest.approx(0.5)
    assert room.pace.least_s(50) == pytest.approx(1.0)


def test_an_idle_service_takes_what_seems_too_slow_or_too_large_or_it_never_would_again():
    room = room_of()
    room.pace.record(1, 100.0)

    room.admit(9, 1000, now_s=0.0, deadline_s=1.0)

    assert room.rows == 9
