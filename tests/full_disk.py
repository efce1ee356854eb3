"""A disk that is full, as a process sees it."""

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(limit_bytes):
    """Let no file grow beyond a limit: writing fails with an error that names no file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
