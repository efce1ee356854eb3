"""ONNX Runtime's TensorRT provider against its CUDA provider, on the same file; needs a GPU.

    make bench NAME=tensorrt

ResNet-50 at 224 x 224 with random weights, batches of 1 and 8, in float16 and float32 arithmetic, in alternating turns:
times as fast as CUDA at float32. Where a GPU, ONNX Runtime's providers or TensorRT are missing it says so, and ends
with exit code 2.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.measure import alternate, conclude, ratios
from tfpipe.config import load_config
from tfpipe.convert.to_onnx import network_to_onnx
from tfpipe.convert.to_tensorrt import look_around, missing, share_gpus
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import CAFFE
from tfpipe.ort import open_session
from tfpipe.ort_providers import Way

SIDE = 224
TURNS = 7
RUNS = 30
GOAL = 1.2
WAYS = (Way("cuda"), Way("tensorrt"), Way("tensorrt", "float16"))


def main() -> int:
    lacks = missing("tensorrt", look_around())
    if lacks:
        print(f"tensorrt: cannot be measured here. {' '.join(lacks)}", file=sys.stderr)
        return 2
    share_gpus()
    model = resnet()
    gains = []
    with tempfile.TemporaryDirectory() as engines:
        for size in (1, 8):
            rows = np.random.default_rng(0).normal(size=(size, SIDE, SIDE, 3)).astype(np.float32)
            timed = alternate(
                {f"{way.title}, batch {size}": contender(model, way, rows, Path(engines)) for way in WAYS},
                repeats=TURNS,
            )
            reference, *others = timed
            for name in others:
                gains.append(ratios(timed, reference, name))
                print(f"{name}: {statistics.median(gains[-1]):.2f} times as fast as {reference}")
    conclude("tensorrt", max(gains, key=statistics.median), goal=GOAL, unit="times as fast as CUDA at float32")
    return 0


def resnet() -> bytes:
    """The network of ResNet-50 as an ONNX file."""
    config = load_config(
        None, ["model.name=resnet50", f"preprocessing.image_size=[{SIDE},{SIDE}]", "preprocessing.normalization=auto"]
    )
    labels = tuple(map(str, range(10)))
    parts = assemble(build_preprocessing(config.preprocessing, CAFFE), build_network(config, len(labels)), labels)
    return network_to_onnx(parts, opset=18, metadata={}).SerializeToString()


def contender(model: bytes, way: Way, rows: np.ndarray, engines: Path) -> Callable[[], float]:
    """The median milliseconds of some runs."""
    session = open_session(model, provider=way.provider, arithmetic=way.arithmetic, engines_dir=engines)
    # Builds the engine for this batch.
    session.run({"input": rows})

    def run() -> float:
        durations = []
        for _ in range(RUNS):
            started = time.perf_counter()
            session.run({"input": rows})
            durations.append((time.perf_counter() - started) * 1e3)
        return statistics.median(durations)

    return run


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    sys.exit(main())
