"""Memory of the service after 5,000 requests of mixed shapes over that after 100,000: 1 where nothing leaks.

    make bench NAME=service_memory

The digits model, pictures of 64 sizes as PNG and JPEG to /predict, 16 connections. Needs a bundle of digits, which is
made the first time.
"""

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load import send_load
from benchmarks.measure import conclude
from benchmarks.served_models import BUILD
from benchmarks.servers import Asked, as_rows, predict, resident_bytes, serving

FIRST, LAST = 5_000, 100_000
SIZES = 64
CONNECTIONS = 16
STEP_S = 5.0
GOAL = 0.95


def main() -> None:
    bundle = digits_bundle()
    asked = Asked(bundle, bundle, "image", as_rows(pictures()), batch_size=16)
    contender = predict(asked, "application/octet-stream")
    sent, first_bytes = 0, 0
    with serving(contender, asked) as running:
        print(f"at the start: {resident_bytes(running.pid) / 1e6:.1f} MB", flush=True)
        while sent < LAST:
            loaded = send_load(
                running.port,
                running.requests,
                connections=CONNECTIONS,
                seconds=STEP_S if first_bytes else 1.0,
                warm_up_s=0.0,
            )
            if loaded.failed:
                raise RuntimeError(f"expected every request to be answered: {loaded}")
            sent += sum(loaded.statuses.values())
            now_bytes = resident_bytes(running.pid)
            if not first_bytes and sent >= FIRST:
                first_bytes = now_bytes
            print(f"after {sent:,} requests: {now_bytes / 1e6:.1f} MB", flush=True)
    conclude("service_memory", [first_bytes / now_bytes], goal=GOAL, unit="memory early over memory late")


def digits_bundle() -> Path:
    """The digits classifier as `tfpipe convert` writes it, of a short training."""
    folder = BUILD / "digits"
    if not (folder / "bundle.json").exists():
        # TensorFlow, for as long as it is made.
        from benchmarks.trained_digits import train_digits
        from tfpipe.convert.pipeline import convert

        with tempfile.TemporaryDirectory() as name:
            shutil.rmtree(folder, ignore_errors=True)
            convert(train_digits(Path(name), "training.epochs=3"), output=folder, force=True)
    return folder


def pictures() -> list[bytes]:
    """Files of many sizes, between 8 and 200 pixels a side."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(SIZES):
        height, width = rng.integers(8, 200, 2).tolist()
        file = io.BytesIO()
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(file, "JPEG" if index % 2 else "PNG")
        made.append(file.getvalue())
    return made


if __name__ == "__main__":
    main()
