"""What the registry said last, kept in the cache folder: a service starts with it while the registry is away."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from tfpipe.core import atomic

logger = logging.getLogger(__name__)

_FOLDER = "resolved"


@dataclass(frozen=True)
class Resolved:
    """What a model's URI meant.

    Attributes:
        name: Registered name.
        version: Registered version.
        aliases: Of the version.
        bundle_sha256: Its bundle, which is in the cache folder under this name.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    bundle_sha256: str


def remember(cache_dir: Path, asked: str, resolved: Resolved) -> None:
    """Keep an answer of the registry.

    Args:
        cache_dir: The cache folder.
        asked: Registry and URI.
        resolved: The answer.
    """
    path = _path(cache_dir, asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_file(path, json.dumps(asdict(resolved), indent=2) + "\n")


def recall(cache_dir: Path, asked: str) -> Resolved | None:
    """The last answer to the same question; None where there is none that can be read."""
    try:
        kept = json.loads(_path(cache_dir, asked).read_text(encoding="utf-8"))
        return Resolved(kept["name"], kept["version"], tuple(kept["aliases"]), kept["bundle_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(cache_dir: Path, asked: str) -> Path:
    # Hashed: the registry's address may hold a password.
    return cache_dir / _FOLDER / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"
