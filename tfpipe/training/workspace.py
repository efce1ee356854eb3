"""The output folder of a run: who may write into it, and what a resumed run may change."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfpipe.config import flatten, load_config, save_config
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, DataError, TfpipeError
from tfpipe.settings import RESUMABLE_KEYS, Config

RESULT = "result.json"
CONFIG = "config.yaml"
STATUS = "status.json"
CHECKPOINTS = "checkpoints"
# The last part of output_dir where one batch tries everything.
FAST_DEV_RUN = "fast-dev-run"
_LOCK = ".lock"
_TIME = re.compile(r"\$\{now:[^}]*\}")


def newest_unfinished(pattern: str) -> str:
    """The newest unfinished run among those that `output_dir` can mean.

    Args:
        pattern: `output_dir` before interpolation; `${now:...}` stands for any time.

    Returns:
        The folder, or `pattern` where it names no time.

    Raises:
        ConfigError: There is none to resume.
    """
    if not _TIME.search(pattern):
        return pattern
    fixed = Path(_TIME.sub("*", pattern))
    runs = [
        path
        for path in fixed.parent.glob(fixed.name)
        if (path / CONFIG).exists() and not (path / RESULT).exists() and path.name != FAST_DEV_RUN
    ]
    if not runs:
        raise ConfigError(f"--resume: expected an unfinished run in {fixed}, found none. Start one without --resume.")
    return str(max(runs, key=lambda path: (path / CONFIG).stat().st_mtime))


@contextmanager
def opened(config: Config, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Take the output folder for this run, and hold it until the end.

    Args:
        config: The run; written to config.yaml.
        resume: Go on with what is there.
        overwrite: Remove what is there.

    A start that is refused for its configuration or data leaves nothing but status.json, so that the next one needs no
    flag.

    Raises:
        ConfigError: It cannot be written, another process writes into it, it holds a run and neither flag was given, or
            a resumed run's configuration differs in a key that it may not change.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir: expected a folder, but {str(folder)!r} is a file.")
    if resume and not folder.exists():
        raise ConfigError(f"--resume: expected an unfinished run in {str(folder)!r}, found no such folder.")
    atomic.writable_folder(folder, where="output_dir")
    with open(folder / _LOCK, "w", encoding="utf-8") as lock:
        busy = f"output_dir: another process is training into {str(folder)!r}. Wait for it, or choose another folder."
        atomic.hold(lock, otherwise=busy)
        _prepare(folder, config, resume=resume, overwrite=overwrite)
        save_config(config, folder / CONFIG)
        try:
            yield folder
        except (ConfigError, DataError):
            if not resume and not (folder / CHECKPOINTS).exists():
                (folder / CONFIG).unlink(missing_ok=True)
            raise


def save_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json: the run is complete."""
    atomic.write_file(folder / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def save_status(folder: Path, error: TfpipeError | None) -> None:
    """Write status.json: the exit code that horovodrun does not pass on, and its reason."""
    status = {"exit_code": error.exit_code if error else 0, "reason": str(error) if error else "done"}
    if folder.is_dir():
        atomic.write_file(folder / STATUS, json.dumps(status, indent=2, ensure_ascii=False) + "\n")


def _prepare(folder: Path, config: Config, *, resume: bool, overwrite: bool) -> None:
    held = [path for path in folder.iterdir() if path.name not in (_LOCK, STATUS)]
    if not held:
        if resume:
            raise ConfigError(f"--resume: expected an unfinished run in {str(folder)!r}, found an empty folder.")
        return
    if overwrite:
        if not (folder / CONFIG).exists():
            raise ConfigError(
                f"--overwrite: {str(folder)!r} holds files that are no run of tfpipe; remove them yourself, or choose "
                "another output_dir."
            )
        for path in held:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif (folder / RESULT).exists():
        raise ConfigError(
            f"output_dir: {str(folder)!r} holds a complete run. Choose another folder, or give --overwrite."
        )
    elif not resume:
        raise ConfigError(
            f"output_dir: {str(folder)!r} holds an unfinished run or other files. Give --resume to go on, "
            "--overwrite to begin anew, or choose another folder."
        )
    elif not (folder / CONFIG).exists():
        raise ConfigError(f"--resume: expected an unfinished run in {str(folder)!r}, found no {CONFIG}.")
    else:
        _check_same_run(config, folder)


def _check_same_run(config: Config, folder: Path) -> None:
    saved, given = flatten(load_config(folder / CONFIG)), flatten(config)
    changed = [
        f"{key}: {saved[key]!r} -> {given[key]!r}"
        for key in saved
        if saved[key] != given[key]
        and not any(key == k or (k[-1] == "." and key.startswith(k)) for k in RESUMABLE_KEYS)
    ]
    if changed:
        raise ConfigError(
            f"--resume: expected the configuration of {folder / CONFIG}, but these keys differ:\n  "
            + "\n  ".join(changed)
        )
