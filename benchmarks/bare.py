"""What the machine does without a server, on the core and with the one thread that a server would have.

python -m benchmarks.bare model GRAPH SECONDS BATCH_SIZE...     rows/s of ONNX Runtime, the best batch size of those
python -m benchmarks.bare decode FILE SECONDS                   images/s of reading a JPEG
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.load import SERVER_CORE
from tfpipe.decode import decode_image

_LEAST_RUNS = 3


def rows_per_second(graph: Path, batch_sizes: tuple[int, ...], *, seconds: float) -> float:
    """Rows/s of a bare loop over `session.run`, at the best batch size; each gets its share of the time."""
    return _apart("model", str(graph), str(seconds), *map(str, batch_sizes))


def images_per_second(file: Path, *, seconds: float) -> float:
    """JPEG files/s that are read into pixels."""
    return _apart("decode", str(file), str(seconds))


def _apart(*words: str) -> float:
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.bare", *words]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _rate(run: Callable[[], object], seconds: float) -> float:
    run()
    started_s, count = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - started_s) < seconds or count < _LEAST_RUNS:
        run()
        count += 1
    return count / passed_s


def _model_rate(graph: str, seconds: float, sizes: list[int]) -> float:
    # Not our own session: what it is measured beside must owe nothing to it.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    rng = np.random.default_rng(0)
    rates = []
    for size in sizes:
        batch = rng.random((size, *given.shape[1:]), np.float32)
        rates.append(size * _rate(lambda batch=batch: session.run(None, {given.name: batch}), seconds / len(sizes)))
    return max(rates)


def main() -> None:
    kind, file, seconds, *sizes = sys.argv[1:]
    if kind == "model":
        print(_model_rate(file, float(seconds), [int(size) for size in sizes]))
    else:
        content = Path(file).read_bytes()
        print(_rate(lambda: decode_image(content), float(seconds)))


if __name__ == "__main__":
    main()
