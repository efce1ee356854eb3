"""Where the time of a run went, by arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.training.figures import shares_figure
from tfpipe.training.summary import mean_worker_shares, summary_rows, summary_text
from tfpipe.training.telemetry import SHARES, WorkerTimes, communication_shares, time_figures, worker_shares

SECONDS = st.floats(0.001, 1e4)
WORKERS = st.lists(
    st.builds(
        lambda rest, *parts, alone: WorkerTimes(sum(parts) + rest, *parts, alone_ratio=alone),
        SECONDS, SECONDS, SECONDS, SECONDS, alone=st.floats(0.05, 1.0),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(workers=WORKERS)
def test_the_shares_of_every_worker_add_up_to_all_its_time(workers):
    shares = worker_shares(time_figures(workers))

    assert list(shares) == list(range(len(workers)))
    for rank, worker in enumerate(workers):
        assert sum(shares[rank].values()) == pytest.approx(1.0)
        assert all(share >= -1e-9 for share in shares[rank].values())
        assert shares[rank]["communication"] == pytest.approx(worker.communication_s / worker.wall_s)


@given(workers=WORKERS.filter(lambda workers: len(workers) > 1))
def test_efficiency_is_throughput_over_what_the_workers_reach_alone(workers):
    figures = time_figures(workers)

    # All take a step in one second together; worker i would take alone_ratio_i.
    together, alone = len(workers) / 1.0, sum(1.0 / worker.alone_ratio for worker in workers)
    assert figures["scaling_efficiency"] == pytest.approx(together / alone)


def test_the_slowest_is_the_one_that_others_wait_for():
    fast = WorkerTimes(wall_s=10, input_s=1, compute_s=3, communication_s=6, alone_ratio=0.4)
    slow_to_compute = WorkerTimes(wall_s=10, input_s=1, compute_s=8, communication_s=1, alone_ratio=0.9)
    slow_to_read = WorkerTimes(wall_s=10, input_s=7, compute_s=2.5, communication_s=0.5, alone_ratio=0.9)

    assert time_figures([fast, slow_to_compute, fast])["slowest_rank"] == 1
    assert time_figures([fast, slow_to_compute, slow_to_read])["slowest_rank"] == 2
    assert communication_shares(time_figures([fast, slow_to_compute])) == {0: 0.6, 1: 0.1}


def test_one_worker_has_no_efficiency_and_no_ranks():
    figures = time_figures([WorkerTimes(10, 1, 8, 0, math.nan)])

    assert figures == {
        f"{name}_share": pytest.approx(share) for name, share in zip(SHARES, (0.1, 0.8, 0, 0.1), strict=True)
    }


def epoch(**figures):
    workers = [WorkerTimes(10, 1, 8, 0.5, 0.9), WorkerTimes(10, 3, 4, 2.5, 0.7)]
    return {"loss": 1.0, "samples_per_second": 200.0, "memory_peak_bytes": 2.0**31, **time_figures(workers), **figures}


def test_the_summary_says_what_the_epochs_were_like():
    history = [epoch(), epoch(samples_per_second=300.0, skipped_steps=2.0, memory_peak_bytes=3 * 2.0**30)]

    text = summary_text(summary_rows(history, workers=2, wall_time_s=3725.2))

    assert text.splitlines() == [
        "epochs              2 in 1:02:05",
        "samples/s           250, 125 a worker",
        "scaling efficiency  79 %",
        "time of worker 0    input 10 %, compute 80 %, communication 5 %, other 5 %",
        "time of worker 1    input 30 %, compute 40 %, communication 25 %, other 5 %",
        "slowest worker      0, in 2 of 2 epochs",
        "skipped steps       2",
        "peak memory         3.00 GiB",
    ]


def test_a_history_of_other_worker_counts_and_of_earlier_versions_has_a_summary():
    alone = time_figures([WorkerTimes(10, 2, 8, 0, math.nan)])
    history = [{"loss": 1.0}, epoch(), {"loss": 1.0, "samples_per_second": math.nan, **alone}]

    assert mean_worker_shares(history) == {0: {name: alone[f"{name}_share"] for name in SHARES}}
    assert summary_rows(history, workers=1, wall_time_s=1.0)["epochs"] == "3 in 0:00:01"
    assert summary_rows([], workers=1, wall_time_s=0.0) == {"epochs": "0 in 0:00:00"}


def test_a_bar_for_each_of_many_workers_can_be_drawn():
    shares = dict(zip(SHARES, (0.1, 0.6, 0.2, 0.1), strict=True))

    figure = shares_figure(dict.fromkeys(range(64), shares))

    axes = figure.axes[0]
    assert len(axes.patches) == 64 * len(SHARES)
    assert len(axes.get_yticklabels()) <= 32
    figure.canvas.draw()
