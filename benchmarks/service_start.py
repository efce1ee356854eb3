"""3 seconds over the time from starting the service to ready, ResNet-50 INT8; and its memory with a small model.

    make bench NAME=service_start

The service as anyone starts it, on the default provider, golden answers replayed and shapes warmed; TensorFlow is not
in it. Files are in the page cache, as after a first start.
"""

import dataclasses
import statistics

from benchmarks.measure import conclude_nearest
from benchmarks.served_models import jpeg, resnet50_bundle, tiny_bundle
from benchmarks.servers import Asked, Contender, as_rows, predict, resident_bytes, serving

TURNS = 5
MOST_S, MOST_BYTES = 3.0, 250e6


def main() -> None:
    large, small = resnet50_bundle(), tiny_bundle()
    rows = as_rows([jpeg(224, 224, seed=0)])
    start_s, resident = [], []
    for turn in range(TURNS):
        asked = Asked(large, large, "image", rows)
        with serving(_by_default(predict(asked, "image/jpeg")), asked) as running:
            start_s.append(running.start_s)
        asked = Asked(small, small, "image", rows)
        with serving(_by_default(predict(asked, "image/jpeg")), asked) as running:
            resident.append(resident_bytes(running.pid))
        print(
            f"turn {turn + 1}/{TURNS}  ready after {start_s[-1]:.2f} s; small model {resident[-1] / 1e6:.1f} MB",
            flush=True,
        )
    print(f"ready after {statistics.median(start_s):.2f} s (goal: {MOST_S:g})")
    print(f"memory with a small model: {statistics.median(resident) / 1e6:.1f} MB (goal: {MOST_BYTES / 1e6:g})")
    margins = {"start": [MOST_S / value for value in start_s], "memory": [MOST_BYTES / value for value in resident]}
    conclude_nearest("service_start", margins)


def _by_default(contender: Contender) -> Contender:
    """Without the settings that make contenders alike, but the model."""
    kept = {name: value for name, value in contender.environ.items() if name.endswith(("MODEL", "LOG_LEVEL"))}
    return dataclasses.replace(contender, environ=kept)


if __name__ == "__main__":
    main()
