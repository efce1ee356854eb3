"""Memory of a process, as Linux tells it."""

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | None = None) -> float | None:
    """Resident memory of a process; None where it is gone, or the system has no /proc.

    Args:
        pid: None for this one.
    """
    try:
        fields = Path(f"/proc/{pid or 'self'}/statm").read_text().split()
    except OSError:
        return None
    # A process that ended and was not waited for has an entry with zeros.
    return float(int(fields[1]) * _PAGE_BYTES) or None
