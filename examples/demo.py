"""The whole road on the embedded digits: train on two workers, convert, serve, ask, and show it in one screen.

Run it with `make demo`. It takes about three minutes on two cores.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import httpx

WORKERS = 2
# Loading takes a few seconds; a service that needs a minute will not come.
READY_TIMEOUT_S = 60.0


def main() -> int:
    """Walk the road; returns the exit code."""
    started = time.monotonic()
    run_dir = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    bundle = Path("bundles") / run_dir.name
    python = sys.executable
    horovodrun = str(Path(python).with_name("horovodrun"))

    train = [python, "-m", "tfpipe.train", f"output_dir={run_dir}"]
    step(f"1/4  train the digits classifier on {WORKERS} Horovod workers", [horovodrun, "-np", str(WORKERS), *train])
    trained = json.loads((run_dir / "result.json").read_text())
    uri = f"models:/{trained['registered_model']}/{trained['model_version']}"
    step(
        f"2/4  convert {uri} to ONNX at fp32, fp16 and int8",
        [python, "-m", "tfpipe.convert", "--precision", "int8", "--model", uri, "--output", str(bundle)],
    )
    heading("3/4  serve the bundle over HTTP, and ask it")
    sample = next(path for path in sorted((bundle / "golden").iterdir()) if path.suffix == ".png")
    with service(bundle) as address:
        response = httpx.post(f"{address}/predict", files={"file": (sample.name, sample.read_bytes())})
        response.raise_for_status()
    heading(f"4/4  what happened, in {time.monotonic() - started:.0f} s")
    show(run_dir, bundle, trained, sample, response.json())
    return 0


def step(title: str, command: Sequence[str]) -> None:
    """Run one command and end the demo if it fails."""
    heading(title)
    print("$ " + " ".join([Path(command[0]).name, *command[1:]]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def heading(text: str) -> None:
    """Print a title."""
    print(f"\n== {text}", flush=True)


@contextlib.contextmanager
def service(bundle: Path) -> Iterator[str]:
    """A running service; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "TFPIPE_SERVING_MODEL": str(bundle), "TFPIPE_SERVING_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(process, address)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    """Ask /health until it says ready.

    Raises:
        SystemExit: It ended, or is not ready in time.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health").status_code == 200:
                return
        time.sleep(0.2)
    sys.exit(f"the service did not become ready at {address}")


def show(run_dir: Path, bundle: Path, trained: dict, sample: Path, answer: dict) -> None:
    """The one screen."""
    metrics = trained["metrics"]
    print(
        f"\ntraining   validation accuracy {metrics['val_accuracy']:.2%}, loss {metrics['val_loss']:.4f}; "
        f"{trained['samples_per_second']:.0f} images/s on {trained['workers']} workers, {trained['wall_time_s']:.0f} s"
    )
    print(f"curve      {sparkline(epoch_losses(run_dir))}  validation loss by epoch")
    manifest = json.loads((bundle / "bundle.json").read_text())
    print("\nprecision   size      accuracy   batch of 1   batch of 8")
    for name in ("fp32", "fp16", "int8"):
        variant = manifest["variants"][name]
        latency = variant["latency_ms"]
        print(
            f"{name:10s}{variant['size_bytes'] / 1024:7.0f} KiB {variant['metrics']['accuracy']:9.2%}"
            f"{latency['1']:10.3f} ms{latency['8']:10.3f} ms"
        )
    best = answer["predictions"][0]
    print(
        f"\nPOST /predict {sample.name} -> {best['label']!r} with {best['score']:.1%}, version "
        f"{answer['model_version']}, {answer['precision']}, {answer['latency_ms']:.1f} ms"
    )
    print(f"\nreports    {run_dir}/report.html\n           {bundle}/report.md")
    print("MLflow     .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db   (then http://127.0.0.1:5000)")
    print(
        "\nnext\n  .venv/bin/python -m serving                                   serve the champion on port 8000\n"
        f"  curl -F file=@{sample} http://127.0.0.1:8000/predict\n"
        "  .venv/bin/python -m tfpipe.data validate YOUR_FOLDER --output validation   one sub-folder per class"
    )


def epoch_losses(run_dir: Path) -> list[float]:
    """Validation loss of every epoch, from the newest checkpoint."""
    newest = max((run_dir / "checkpoints").glob("step-*"))
    history = json.loads((newest / "state.json").read_text())["state"]["history"]
    return [epoch["val_loss"] for epoch in history]


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text."""
    low, high = min(values), max(values)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / ((high - low) or 1.0))] for value in values)


if __name__ == "__main__":
    sys.exit(main())
