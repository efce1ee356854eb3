"""Files and folders that appear whole or not at all, and one writer at a time."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tfpipe.core.errors import ConfigError


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary sibling, synced and renamed into place.

    Args:
        path: Target; its folder is made if missing. An existing file is replaced in one step.
        content: Bytes, or text written as UTF-8.

    Raises:
        OSError: The disk is full or the folder not writable; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    with naming(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    staging = Path(name)
    try:
        with naming(path):
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes 0600; a reader under another user must be able to read it.
            staging.chmod(0o666 & ~_umask())
            staging.replace(path)
    # Ctrl-C too leaves nothing half written; the error goes on its way.
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def writable_folder(folder: Path, *, where: str) -> None:
    """Make a folder if it is missing, and try whether it can be written: better known before the work than after.

    Raises:
        ConfigError: It cannot; `where` names the setting.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{where}: expected a folder that can be written, but {str(folder)!r}: {error.strerror}."
        ) from error


def writable_file(path: Path, *, where: str) -> None:
    """Make a file's folder if it is missing, and try whether the file can be written.

    Raises:
        ConfigError: It cannot; `where` names the setting.
    """
    writable_folder(path.parent, where=where)
    try:
        path.open("ab").close()
    except OSError as error:
        raise ConfigError(
            f"{where}: expected a file that can be written, but {str(path)!r}: {error.strerror}."
        ) from error


@contextlib.contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary sibling of `target`; on success sync it and rename it into place.

    On an exception the temporary folder is removed and `target` is as it was.

    Args:
        target: Folder to make.
        replace: Put it in place of an existing folder, which is removed afterwards.

    Raises:
        FileExistsError: `target` exists and `replace` is false.
        OSError: The disk is full or the parent not writable.
    """
    if target.exists() and not replace:
        raise FileExistsError(f"{target}: expected a new folder, found an existing one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target):
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        with naming(target):
            yield staging
        staging.chmod(0o777 & ~_umask())
        for folder, _, names in os.walk(staging):
            for name in names:
                _sync_file(Path(folder) / name)
            sync_folder(Path(folder))
        if target.exists():
            retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
            target.rename(retired / target.name)
            staging.rename(target)
            shutil.rmtree(retired)
        else:
            staging.rename(target)
    # As above.
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine is inside such a block for the folder.

    Raises:
        OSError: The folder is not there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def hold(lock: TextIO, *, otherwise: str) -> None:
    """Hold a file's lock until it is closed.

    Args:
        lock: Open.
        otherwise: The error where another process holds it.

    Raises:
        ConfigError: Another process does.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(otherwise) from None


@contextlib.contextmanager
def naming(target: Path) -> Iterator[None]:
    """Give an error of the system the name of what was being written.

    That of a full disk has none, and that of a folder which takes no files the name of our temporary sibling.
    """
    try:
        yield
    except OSError as error:
        ours = error.filename is None or Path(error.filename).name.startswith(f".{target.name}.")
        if ours and error.errno is not None:
            error.filename = str(target)
        raise


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
