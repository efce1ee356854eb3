"""Images per second of Horovod workers over those of `tf.distribute.MultiWorkerMirroredStrategy`.

    make bench NAME=multi_worker_mirrored

ResNet-50 at 64 x 64, SGD with momentum, 16 images a worker, one thread a worker, the same cores for both, with two
workers and with four (which share cores where there are fewer). Gradients weigh more against such small images. Turns
alternate; with the start of their processes they take some fifteen minutes.
"""

import json
import socket
from collections.abc import Callable

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.processes import figure, horovodrun, together

TURNS = 3
STEPS = 12
# By number of workers.
GOALS = {2: 1.05, 4: 1.0}
ARGUMENTS = ("--steps", str(STEPS), "--size", "64", "--images", "16")


def ours(workers: int) -> float:
    settings = {"HOROVOD_CYCLE_TIME": "10"}
    return figure("images_per_second", horovodrun(workers, "benchmarks.scaling_worker", ARGUMENTS, settings))


def mirrored(workers: int) -> float:
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    settings = [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}
        for index in range(workers)
    ]
    return figure("images_per_second", together("benchmarks.mirrored_worker", ARGUMENTS, settings, cores=1)[0])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _with(workers: int, run: Callable[[int], float]) -> Callable[[], float]:
    return lambda: run(workers)


def main() -> None:
    margins: dict[int, list[float]] = {}
    for workers, goal in GOALS.items():
        contenders = {"horovod": _with(workers, ours), "mirrored": _with(workers, mirrored)}
        found = ratios(alternate(contenders, repeats=TURNS), "horovod", "mirrored")
        print(f"{workers} workers: {', '.join(f'{value:.3f}' for value in found)} times as fast, goal {goal}")
        margins[workers] = [value / goal for value in found]
    nearest = min(margins, key=lambda workers: sorted(margins[workers])[TURNS // 2])
    conclude(
        "multi_worker_mirrored", margins[nearest], goal=1.0,
        unit=f"ratio of images/s over its goal, {nearest} workers",
    )  # fmt: skip


if __name__ == "__main__":
    main()
