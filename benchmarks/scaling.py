"""Images per second of two Horovod workers of one core each over those of one plain process on one core.

    make bench NAME=scaling

ResNet-50 at 128 x 128, SGD with momentum, 16 images a worker. The plain process has no Horovod at all. Turns alternate;
with the start of nine processes they take some six minutes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import alternate, conclude, ratios

STEPS = 6
TURNS = 3
# For steps of a second: Horovod's thread wakes less often. With small models it would be waited for.
CYCLE_TIME_MS = "20"
ROOT = Path(__file__).resolve().parent.parent


def images_per_second(command: list[str]) -> float:
    environment = {
        **os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "HOROVOD_CYCLE_TIME": CYCLE_TIME_MS
    }  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600)
    found = re.search(r"images_per_second=([\d.]+)", done.stdout)
    if found is None:
        sys.exit(f"the worker printed no figure:\n{done.stdout}{done.stderr}")
    return float(found[1])


def main() -> None:
    worker = [sys.executable, "-m", "benchmarks.scaling_worker", str(STEPS)]
    core = str(min(os.sched_getaffinity(0)))
    horovodrun = str(Path(sys.executable).with_name("horovodrun"))
    figures = alternate(
        {
            "two": lambda: images_per_second([horovodrun, "-np", "2", *worker]),
            "plain": lambda: images_per_second(["taskset", "-c", core, *worker]),
        },
        repeats=TURNS,
    )
    conclude("scaling_vs_plain", ratios(figures, "two", "plain"), goal=1.6, unit="ratio of images/s")


if __name__ == "__main__":
    main()
