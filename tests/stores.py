"""Tracking stores that cost nothing: MLflow takes seconds to make one, so a process makes one and copies it."""

import functools
import tempfile
from pathlib import Path

from tfpipe.store import create_store


def new_store(folder: Path) -> str:
    """The address of an empty store, `mlflow.db` in a folder; one that is there is kept."""
    path = folder / "mlflow.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty_store())
    return f"sqlite:///{path}"


def is_untouched(folder: Path) -> bool:
    """Whether nothing was written to what `new_store` made."""
    return (folder / "mlflow.db").read_bytes() == _empty_store()


@functools.cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory(prefix="tfpipe-store-") as folder:
        path = Path(folder) / "mlflow.db"
        create_store(f"sqlite:///{path}")
        return path.read_bytes()
