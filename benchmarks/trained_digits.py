"""A classifier of digits, trained here, and what a search says of it; shared."""

from pathlib import Path

from tfpipe.config import load_config
from tfpipe.train import train


def train_digits(folder: Path, *overrides: str) -> Path:
    """The run's folder, in `folder`, as is its tracking store.

    Args:
        folder: Empty.
        overrides: Of the configuration, like "training.epochs=3".
    """
    places = [f"output_dir={folder}/run", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    train(load_config("configs/image_classification_digits.yaml", [*overrides, *places]))
    return folder / "run"


def table_of_trials(bundle: Path) -> str:
    """What the report of a bundle says was tried."""
    return (bundle / "report.md").read_text().partition("## What was tried")[2].partition("\n## ")[0]
