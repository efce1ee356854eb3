"""Test accuracy on SST-2 of a small model from random weights, and what INT8 keeps of it.

    SST2=/path/to/sst2 make bench NAME=sst2

The folder holds train.tsv, dev.tsv and test.tsv: sentence, tab, 0 or 1, no header. Trains the model of
configs/text_classification_messages.yaml's kind with `python -m tfpipe.train`, as a user would, and converts it; the
value is the share of right answers, and the run must end within ten minutes on two cores.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import conclude
from tfpipe.core.bundle import open_bundle

GOAL = 0.79
LIMIT_S = 600
SETTINGS = {
    "task": "text_classification",
    "preprocessing": {"lowercase": True, "vocabulary_size": 8000},
    "model": {"name": "text_cnn", "width": 128, "dropout": 0.5},
    "training": {
        "epochs": 6, "batch_size": 50, "learning_rate": 0.001, "weight_decay": 0.01, "monitor": "val_accuracy",
    },
}  # fmt: skip


def main() -> None:
    data = folder_of("SST2", ("train.tsv", "dev.tsv", "test.tsv"))
    with tempfile.TemporaryDirectory() as name:
        store = f"tracking.uri=sqlite:///{name}/mlflow.db"
        started = time.monotonic()
        run = trained(SETTINGS, data, "tsv", Path(name), "data.columns=[text,label]")
        seconds = time.monotonic() - started
        command("tfpipe.convert", "--model", str(run), "--output", f"{name}/bundle", store)
        metrics = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
        variants = open_bundle(Path(name) / "bundle").manifest.variants
        scores = {precision: variant.metrics["accuracy"] for precision, variant in variants.items()}
    print(f"trained, evaluated and saved in {seconds:.0f} s; validation accuracy {metrics['val_accuracy']:.4f}")
    print("validation accuracy by variant: " + ", ".join(f"{name} {score:.4f}" for name, score in scores.items()))
    if seconds > LIMIT_S:
        sys.exit(f"expected to end within {LIMIT_S} s, took {seconds:.0f} s")
    conclude("sst2_test_accuracy", [metrics["test_accuracy"]], goal=GOAL, unit="share of right answers")


def folder_of(variable: str, files: tuple[str, ...]) -> Path:
    """The folder that an environment variable names, with these files in it."""
    folder = Path(os.environ.get(variable, ""))
    missing = [name for name in files if not (folder / name).is_file()]
    if not os.environ.get(variable) or missing:
        sys.exit(f"{variable}: expected a folder with {', '.join(files)}, received {os.environ.get(variable)!r}.")
    return folder.resolve()


def trained(settings: dict[str, Any], data: Path, suffix: str, folder: Path, *overrides: str) -> Path:
    """Train with `python -m tfpipe.train` on train, dev and test files; gives the run's folder."""
    config, run = folder / "run.yaml", folder / "run"
    places = {"path": "train", "validation_path": "dev", "test_path": "test"}
    files = {key: str(data / f"{name}.{suffix}") for key, name in places.items()}
    store = {"uri": f"sqlite:///{folder}/mlflow.db"}
    # JSON is YAML.
    config.write_text(json.dumps({**settings, "data": files, "tracking": store, "output_dir": str(run)}))
    command("tfpipe.train", "--config", str(config), *overrides)
    return run


def command(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
