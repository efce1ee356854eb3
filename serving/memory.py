"""Whether a model fits into the memory that is left."""

from collections.abc import Callable

from serving.errors import NotEnoughMemoryError
from tfpipe.cgroups import available_memory_bytes

# Resident memory over the size of the file, once a session is open: ONNX Runtime holds the file's weights and those
# that it has packed for its kernels; OpenVINO compiles a copy beside. Source: BERT-base, a file of 0.44 GB, measured at
# 0.66 GB on the CPU provider and 1.2 GB on OpenVINO.
_FACTORS = {"openvino": 3.0}
_FACTOR = 1.75
# A process with Python, NumPy and ONNX Runtime.
_PROCESS_BYTES = 80 * 2**20


def needed_bytes(file_bytes: int, *, provider: str, sessions: int, isolation: str) -> int:
    """Memory that the sessions of a version will take, about.

    Args:
        file_bytes: Of the model's file, weights included.
        provider: What will run it.
        sessions: How many.
        isolation: "process" or "inline".
    """
    one = file_bytes * _FACTORS.get(provider, _FACTOR) + (_PROCESS_BYTES if isolation == "process" else 0)
    return int(one * sessions)


def require_memory(
    name: str,
    file_bytes: int,
    *,
    provider: str,
    sessions: int,
    isolation: str,
    available: Callable[[], int | None] = available_memory_bytes,
) -> None:
    """Refuse a version that would have the kernel end processes that serve others.

    Args:
        name: Of the version.
        file_bytes: Of its model's file, weights included.
        provider: What will run it.
        sessions: How many.
        isolation: "process" or "inline".
        available: Bytes that are left; None where nobody knows.

    Raises:
        NotEnoughMemoryError: It does not fit.
    """
    needed = needed_bytes(file_bytes, provider=provider, sessions=sessions, isolation=isolation)
    left = available()
    if left is not None and needed > left:
        raise NotEnoughMemoryError(
            f"model {name!r}: expected at most {left / 2**20:.0f} MiB, which are left, but its {sessions} session"
            f"{'s' if sessions > 1 else ''} need about {needed / 2**20:.0f} MiB.",
            needed_bytes=needed,
            available_bytes=left,
        )
