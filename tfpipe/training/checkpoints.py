"""Checkpoints: the complete state of training, written atomically, checked when read.

checkpoints/step-00001234/variables.safetensors   every variable of model and optimizer
checkpoints/step-00001234/state.json              step, epoch, best metric, run id, ...; sha256 of the other
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from tfpipe.core import atomic
from tfpipe.core.bundle import file_sha256
from tfpipe.core.errors import CheckpointError, TrainingError

logger = logging.getLogger(__name__)

_VARIABLES = "variables.safetensors"
_STATE = "state.json"
FORMAT_VERSION = 1


@dataclass
class TrainingState:
    """What training knows beside its variables.

    Attributes:
        epoch: Epoch under way, from 0.
        step_in_epoch: Steps of it that are done.
        step: Optimizer updates of the whole run.
        learning_rate: Of the last update.
        run_id: MLflow run; None before there is one.
        best_value: Best value of `training.monitor`; None before the first epoch ended.
        best_epoch: Epoch of the best value.
        epochs_without_improvement: For early stopping.
        epoch_totals: Sums over the steps done in this epoch, from which its metrics come.
        corrupt_samples: Corrupt samples counted in this epoch.
        history: Metrics of the epochs done.
        wall_time_s: Seconds of training, over all sittings.
        samples_seen: Samples trained on, over all sittings.
        ended: Why the run ended before its last epoch; None while it goes on.
        learning_rate_factor: By which a callback multiplied the schedule.
        callbacks: Of each Keras callback, the numbers and texts that it remembers.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    run_id: str | None = None
    best_value: float | None = None
    best_epoch: int | None = None
    epochs_without_improvement: int = 0
    epoch_totals: list[float] = field(default_factory=list)
    corrupt_samples: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    wall_time_s: float = 0.0
    samples_seen: float = 0.0
    ended: str | None = None
    learning_rate_factor: float = 1.0
    callbacks: list[dict[str, Any]] = field(default_factory=list)


class CheckpointFolder:
    """The checkpoints of one run: the newest few and the best.

    Args:
        folder: Usually `output_dir`/checkpoints.
        keep: Newest ones kept, beside the best.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, variables: Mapping[str, Sequence[Any]], state: TrainingState, *, best: bool = False) -> Path:
        """Write a checkpoint, then remove those that are no longer wanted.

        Args:
            variables: Keras variables by group, e.g. {"model": model.variables, "optimizer": optimizer.variables}.
            state: The rest.
            best: Whether it is the best so far; the one before it loses that place.

        Returns:
            The checkpoint's folder.

        Raises:
            TrainingError: The disk is full; earlier checkpoints are untouched.
        """
        return self.write(named_arrays(variables), state, best=best)

    def write(self, arrays: Mapping[str, np.ndarray], state: TrainingState, *, best: bool = False) -> Path:
        """As `save`, of arrays by the names that `named_arrays` gives."""
        try:
            return self._write(arrays, state, best=best)
        except (OSError, safetensors.SafetensorError) as error:
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {state.step} cannot be written: {error}. Make room; "
                "--resume goes on from the one before it."
            ) from error

    def _write(self, arrays: Mapping[str, np.ndarray], state: TrainingState, *, best: bool) -> Path:
        target = self.folder / f"step-{state.step:08d}"
        with atomic.staged_folder(target, replace=True) as staging:
            save_file(dict(arrays), staging / _VARIABLES)
            document = {
                "format_version": FORMAT_VERSION,
                "sha256": file_sha256(staging / _VARIABLES),
                "variables": {name: list(array.shape) for name, array in arrays.items()},
                # Saved once more without a further update, it is as good as it was.
                "best": best or self._is_best(target),
                "state": asdict(state),
            }
            content = json.dumps(document, indent=1)
            (staging / _STATE).write_text(content, encoding="utf-8")
            (staging / f"{_STATE}.sha256").write_text(_text_sha256(content), encoding="utf-8")
        self._prune(newest_best=target if best else None)
        return target

    def tidy(self) -> None:
        """Remove what a process that was killed while it wrote has left; bring back a checkpoint it was replacing."""
        for path in self.folder.glob(".step-*.old"):
            for retired in path.iterdir():
                if not (self.folder / retired.name).exists():
                    retired.rename(self.folder / retired.name)
        for pattern in (".step-*.old", ".step-*.tmp"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path)

    def load_newest(self) -> tuple[Path, dict[str, np.ndarray], TrainingState] | None:
        """The newest whole checkpoint, or None where there is none; damaged ones are passed over, with a warning."""
        for path in reversed(self._paths()):
            try:
                return (path, *load(path))
            except CheckpointError as error:
                logger.warning("%s Falling back to the one before it.", error)
        return None

    def newest_finite(self) -> Path | None:
        """The newest checkpoint that is whole and holds only finite numbers, or None."""
        for path in reversed(self._paths()):
            with contextlib.suppress(CheckpointError):
                if all(np.isfinite(array).all() for array in load(path)[0].values()):
                    return path
        return None

    def load_best(self) -> tuple[dict[str, np.ndarray], TrainingState] | None:
        """The checkpoint of the best epoch, if there is one and it is whole."""
        for path in reversed(self._paths()):
            if self._is_best(path):
                return load(path)
        return None

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def _is_best(self, path: Path) -> bool:
        try:
            return bool(json.loads((path / _STATE).read_text(encoding="utf-8"))["best"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _prune(self, newest_best: Path | None) -> None:
        paths = self._paths()
        best = newest_best or next((path for path in reversed(paths) if self._is_best(path)), None)
        for path in paths[: -self._keep]:
            if path != best:
                shutil.rmtree(path)


def load(path: Path) -> tuple[dict[str, np.ndarray], TrainingState]:
    """Read and check one checkpoint.

    Raises:
        CheckpointError: A file is missing, changed, or of another format.
    """
    try:
        content = (path / _STATE).read_text(encoding="utf-8")
        expected = (path / f"{_STATE}.sha256").read_text(encoding="utf-8").strip()
        document = json.loads(content)
        if _text_sha256(content) != expected or file_sha256(path / _VARIABLES) != document["sha256"]:
            raise CheckpointError(f"{path}: the checkpoint is damaged: its checksum is not the one it was saved with.")
        if document["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: expected checkpoint format {FORMAT_VERSION}, received {document['format_version']!r}."
            )
        return load_file(path / _VARIABLES), TrainingState(**document["state"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged: {error}.") from error


def variable_names(variables: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Keras variables by group, position and path; positions keep equal paths apart."""
    return {
        f"{group}/{position:05d}/{variable.path}": variable
        for group, members in variables.items()
        for position, variable in enumerate(members)
    }


def named_arrays(variables: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Copies of Keras variables, named as by `variable_names`."""
    return {name: np.asarray(variable.numpy(), order="C") for name, variable in variable_names(variables).items()}


def restore(variables: Mapping[str, Sequence[Any]], arrays: Mapping[str, np.ndarray], *, where: str) -> None:
    """Assign saved arrays to the variables of the groups given; all or nothing.

    Args:
        variables: As in `CheckpointFolder.save`; groups left out are not restored.
        arrays: As `load` gives them.
        where: The checkpoint, for the message.

    Raises:
        CheckpointError: It is of another model: names the first variable that differs.
    """
    pairs = []
    for group, members in variables.items():
        saved = sorted(name for name in arrays if name.startswith(f"{group}/"))
        if len(saved) != len(members):
            raise CheckpointError(
                f"{where}: expected {len(members)} {group} variables, found {len(saved)}: "
                "a checkpoint of another model."
            )
        for name, variable in zip(saved, members, strict=True):
            if tuple(arrays[name].shape) != tuple(variable.shape):
                raise CheckpointError(
                    f"{where}: {variable.path}: expected shape {tuple(variable.shape)}, found "
                    f"{tuple(arrays[name].shape)} ({name}): a checkpoint of another model."
                )
            pairs.append((variable, arrays[name]))
    for variable, array in pairs:
        variable.assign(array)


def _text_sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
