"""Which version of the data DVC says it is, read from its own small files: DVC itself need not be installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tfpipe.core.errors import DataError
from tfpipe.settings import DataConfig

CHANGED = "-changed"


def data_versions(config: DataConfig) -> dict[str, str]:
    """What `data_version` says of a run's paths, by "path", "validation_path", "test_path"; unknown ones are left out.

    Raises:
        DataError: A file of DVC's cannot be read.
    """
    paths = {"path": config.path, "validation_path": config.validation_path, "test_path": config.test_path}
    versions = {name: data_version(path) for name, path in paths.items() if path is not None}
    return {name: version for name, version in versions.items() if version}


def data_version(path: str) -> str:
    """The content hash by which DVC keeps what lies at a path, from `*.dvc` files and `dvc.lock`; "" where it has none.

    "43e7c3eb946dd44357749ec2751a8502.dir" is a folder, with "/train" a folder in it. It ends in `-changed` where the
    number or total size of the files is no longer what DVC recorded; their content is not read for it.

    Args:
        path: As `data.path` takes it.

    Raises:
        DataError: A file of DVC's cannot be read.
    """
    target = Path(path).absolute()
    while any(letter in target.name for letter in "*?["):
        target = target.parent
    root = next((folder for folder in target.parents if (folder / ".dvc").is_dir()), None)
    if root is None or not target.exists():
        return ""
    for tracked, entry in _outputs(target, root):
        if target.is_relative_to(tracked) and "md5" in entry:
            inside = target.relative_to(tracked).as_posix()
            version = entry["md5"] if inside == "." else f"{entry['md5']}/{inside}"
            return version if _found(tracked) == (entry.get("nfiles", 1), entry.get("size")) else version + CHANGED
    return ""


def _outputs(target: Path, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What DVC tracks beside the target and above it: (place, its entry)."""
    for folder in target.parents:
        for file in (*sorted(folder.glob("*.dvc")), folder / "dvc.lock"):
            if file.is_file():
                for entry in _entries(file):
                    yield folder / entry["path"], entry
        if folder == root:
            return


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        stages = document.get("stages", {}).values() if file.name == "dvc.lock" else [document]
        return [entry for stage in stages for entry in stage.get("outs", ()) if entry["path"]]
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise DataError(f"{file}: expected a file that DVC wrote; {' '.join(str(error).split())}.") from error


def _found(tracked: Path) -> tuple[int, int]:
    """Number and total size in bytes of the files."""
    files = [path for path in tracked.rglob("*") if path.is_file()] if tracked.is_dir() else [tracked]
    return len(files), sum(path.stat().st_size for path in files)
