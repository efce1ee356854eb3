"""The whole road on embedded data: train on two workers, convert, serve, ask, and show it in one screen.

Run it with `make demo` (images: handwritten digits) or `make demo TASK=text` (messages to the support of a shop). Each
takes about three minutes on two cores.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import httpx

WORKERS = 2
# Loading takes a few seconds; a service that needs a minute will not come.
READY_TIMEOUT_S = 60.0


CONFIGS = Path(os.path.relpath(Path(__file__).resolve().parent.parent / "configs"))

# What no one has sent before: none is in the training data.
MESSAGES = (
    "My parcel has been sitting in the same depot since Monday, when will it arrive?",
    "I was charged twice for one order, please check my card.",
    "Does the reading lamp come with a bulb, and which socket does it have?",
    "The kettle stopped heating after two days, I want to exchange it 😡",
    "i forgot my pasword and the reset email never comes",
    "Just wanted to say that your staff on the phone was lovely!",
)


@dataclass(frozen=True)
class Story:
    """What differs between images and texts.

    Attributes:
        title: What is trained.
        arguments: Of `python -m tfpipe.train`.
        unit: What training counts a second.
        ask: (address, bundle) -> the lines that tell what was asked and answered.
        next: (bundle) -> the commands to try next, each with what it does.
    """

    title: str
    arguments: tuple[str, ...]
    unit: str
    ask: Callable[[str, Path], list[str]]
    next: Callable[[Path], list[tuple[str, str]]]


def main(task: str = "image") -> int:
    """Walk the road; returns the exit code."""
    if task not in STORIES:
        print(f"TASK: expected {' or '.join(STORIES)}, received {task!r}.", file=sys.stderr)
        return 2
    story = STORIES[task]
    started = time.monotonic()
    run_dir = Path("runs") / f"demo-{task}-{datetime.now():%Y%m%d-%H%M%S}"
    bundle = Path("bundles") / run_dir.name
    python = sys.executable
    horovodrun = str(Path(python).with_name("horovodrun"))

    train = [python, "-m", "tfpipe.train", *story.arguments, f"output_dir={run_dir}"]
    step(f"1/4  train {story.title} on {WORKERS} Horovod workers", [horovodrun, "-np", str(WORKERS), *train])
    trained = json.loads((run_dir / "result.json").read_text())
    uri = f"models:/{trained['registered_model']}/{trained['model_version']}"
    step(
        f"2/4  convert {uri} to ONNX at fp32, fp16 and int8",
        [python, "-m", "tfpipe.convert", "--precision", "int8", "--model", uri, "--output", str(bundle)],
    )
    heading("3/4  serve the bundle over HTTP, and ask it")
    with service(bundle) as address:
        answers = story.ask(address, bundle)
    heading(f"4/4  what happened, in {time.monotonic() - started:.0f} s")
    show(story, run_dir, bundle, trained, answers)
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
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stderr=log)
        try:
            wait_until_ready(process, address, log)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    """Ask /health until it says ready; the last line of its log says why it does not.

    Raises:
        SystemExit: It ended, or is not ready in time.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health").status_code == 200:
                return
        time.sleep(0.2)
    log.seek(0)
    said = log.read().decode(errors="replace").splitlines() or ["nothing"]
    sys.exit(f"the service did not become ready at {address}; it said: {said[-1]}")


def ask_about_an_image(address: str, bundle: Path) -> list[str]:
    """One of the files that travel with the bundle."""
    sample = sample_image(bundle)
    answer = post(f"{address}/predict", files={"file": (sample.name, sample.read_bytes())})
    return [f"POST /predict {sample.name} -> {told(answer['predictions'][0])}, {how(answer)}"]


def ask_about_texts(address: str, bundle: Path) -> list[str]:
    """A message alone, and several at once."""
    alone = post(f"{address}/predict", json={"text": MESSAGES[0]})
    together = post(f"{address}/predict/batch", json={"texts": list(MESSAGES)})
    return [
        f"POST /predict {json.dumps({'text': MESSAGES[0]})}",
        f"  -> {told(alone['predictions'][0])}, {how(alone)}",
        f"POST /predict/batch with {len(MESSAGES)} texts, {together['latency_ms']:.1f} ms",
        *(f"  {told(row):24s}{text}" for text, row in zip(MESSAGES, together["predictions"], strict=True)),
    ]


def post(url: str, **content: Any) -> dict[str, Any]:
    """The answer to a request; one that is refused ends the demo."""
    response = httpx.post(url, **content)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def told(prediction: dict[str, Any]) -> str:
    """The best class."""
    return f"{prediction['label']!r} with {prediction['score']:.1%}"


def how(answer: dict[str, Any]) -> str:
    """What answered."""
    return f"version {answer['model_version']}, {answer['precision']}, {answer['latency_ms']:.1f} ms"


def sample_image(bundle: Path) -> Path:
    """The first of the bundle's golden images."""
    return next(path for path in sorted((bundle / "golden").iterdir()) if path.suffix == ".png")


def show(story: Story, run_dir: Path, bundle: Path, trained: dict[str, Any], answers: Sequence[str]) -> None:
    """The one screen."""
    metrics = trained["metrics"]
    print(
        f"\ntraining   validation accuracy {metrics['val_accuracy']:.2%}, loss {metrics['val_loss']:.4f}; "
        f"{trained['samples_per_second']:.0f} {story.unit}/s on {trained['workers']} workers, "
        f"{trained['wall_time_s']:.0f} s"
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
    print("", *answers, sep="\n")
    print(f"\nreports    {run_dir}/report.html\n           {bundle}/report.md")
    print("MLflow     .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db   (then http://127.0.0.1:5000)")
    print("\nnext", *(f"  {command:76s} {meaning}".rstrip() for command, meaning in story.next(bundle)), sep="\n")


def next_with_images(bundle: Path) -> list[tuple[str, str]]:
    """What to type next."""
    return [
        (".venv/bin/python -m serving --model models:/digits@champion", "on port 8000"),
        (f"curl -F file=@{sample_image(bundle)} http://127.0.0.1:8000/predict", ""),
        (".venv/bin/python -m tfpipe.data validate YOUR_FOLDER --output validation", "one sub-folder per class"),
    ]


def next_with_texts(bundle: Path) -> list[tuple[str, str]]:
    """What to type next."""
    validate = ".venv/bin/python -m tfpipe.data validate YOURS.csv --task text_classification --output validation"
    return [
        (".venv/bin/python -m serving --model models:/messages@champion", "on port 8000"),
        ("curl -H 'Content-Type: text/plain' -d 'Where is my parcel?' http://127.0.0.1:8000/predict", ""),
        (validate, "columns text, label"),
    ]


def epoch_losses(run_dir: Path) -> list[float]:
    """Validation loss of every epoch, from the newest checkpoint."""
    newest = max((run_dir / "checkpoints").glob("step-*"))
    history = json.loads((newest / "state.json").read_text())["state"]["history"]
    return [epoch["val_loss"] for epoch in history]


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text."""
    low, high = min(values), max(values)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / ((high - low) or 1.0))] for value in values)


STORIES = {
    "image": Story("the digits classifier", (), "images", ask_about_an_image, next_with_images),
    "text": Story(
        "a classifier of support messages",
        ("--config", str(CONFIGS / "text_classification_messages.yaml")),
        "texts",
        ask_about_texts,
        next_with_texts,
    ),
}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
