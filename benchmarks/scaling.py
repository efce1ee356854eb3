"""Images per second of two Horovod workers of one core each over those of one plain process on one core.

    make bench NAME=scaling

ResNet-50 at 128 x 128, SGD with momentum, 16 images a worker. The plain process has no Horovod at all. Turns alternate;
with the start of nine processes they take some six minutes.
"""

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.processes import figure, horovodrun, together

STEPS = 6
TURNS = 3
WORKER = "benchmarks.scaling_worker"
ARGUMENTS = ("--steps", str(STEPS), "--size", "128", "--images", "16")
# For steps of a second: Horovod's thread wakes less often. With small models it would be waited for. A run of
# tfpipe.train chooses this by itself.
SETTINGS = {"HOROVOD_CYCLE_TIME": "20"}


def two_workers() -> float:
    """Images/s of two workers of a core each."""
    return figure("images_per_second", horovodrun(2, WORKER, ARGUMENTS, SETTINGS))


def plain_processes(count: int, *, cores: int) -> float:
    """Images/s of plain processes side by side, in all."""
    printed = together(WORKER, ARGUMENTS, [{}] * count, cores=cores)
    return sum(figure("images_per_second", text) for text in printed)


def main() -> None:
    figures = alternate({"two": two_workers, "plain": lambda: plain_processes(1, cores=1)}, repeats=TURNS)
    conclude("scaling_vs_plain", ratios(figures, "two", "plain"), goal=1.6, unit="ratio of images/s")


if __name__ == "__main__":
    main()
