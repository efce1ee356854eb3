"""What a run has still to tell the tracking store: kept and sent in order, and on disk where it must wait."""

import base64
import json
import logging
import posixpath
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.core import atomic
from tfpipe.core.errors import TrackingError
from tfpipe.store import Metric, MlflowClient, connect

logger = logging.getLogger(__name__)

PENDING_FILE = "tracking_pending.json"


class Outbox:
    """The unsent part of one run.

    Args:
        uri: The store.
        run_id: The run.

    Attributes:
        status: What the run ends with, once it is known; sent after the last record.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self.status: str | None = None
        self._records: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._records)

    def add_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Values of one step, at the present time."""
        # With their time, sending them twice leaves one: MLflow drops equal values of one time.
        timestamp = time.time_ns() // 1_000_000
        self._records.append({"metrics": dict(metrics), "step": step, "timestamp": timestamp})

    def add_file(self, path: Path, folder: str) -> None:
        """A file that stays where it is until it is sent."""
        self._records.append({"file": str(path.absolute()), "folder": folder})

    def add_content(self, content: bytes, artifact: str) -> None:
        """Content of the artefact file `artifact`."""
        self._records.append({"artifact": artifact, "content": base64.b64encode(content).decode()})

    def send(self) -> None:
        """Send the records in order, taking each off once it is sent; then end the run if it has a status.

        Raises:
            tfpipe.store.VENDOR_ERRORS: The store is away or refuses; what was not sent is kept.
        """
        client = connect(self.uri)
        while self._records:
            _send(client, self.run_id, self._records[0])
            del self._records[0]
        if self.status is not None:
            client.set_terminated(self.run_id, self.status)

    def save(self, output_dir: Path) -> None:
        """Write `PENDING_FILE`, atomically; `load` reads it."""
        content = {"uri": self.uri, "run_id": self.run_id, "status": self.status, "records": self._records}
        atomic.write_file(output_dir / PENDING_FILE, json.dumps(content, indent=1))

    @classmethod
    def load(cls, output_dir: Path) -> "Outbox | None":
        """What `save` wrote; None where nothing is pending.

        Raises:
            TrackingError: The file is damaged.
        """
        path = output_dir / PENDING_FILE
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            outbox = cls(values["uri"], values["run_id"])
            outbox.status, outbox._records = values["status"], list(values["records"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackingError(
                f"{path}: expected what a run has left to send, received {error!r}. Delete the file to go on without."
            ) from error
        return outbox


def _send(client: MlflowClient, run_id: str, record: Mapping[str, Any]) -> None:
    if "metrics" in record:
        values = record["metrics"].items()
        client.log_batch(run_id, [Metric(name, value, record["timestamp"], record["step"]) for name, value in values])
    elif "content" in record:
        folder, name = posixpath.split(record["artifact"])
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, name)
            path.write_bytes(base64.b64decode(record["content"]))
            client.log_artifact(run_id, str(path), folder or None)
    elif Path(record["file"]).is_file():
        client.log_artifact(run_id, record["file"], record["folder"] or None)
    else:
        logger.warning("%s: was to be recorded in MLflow, but is gone.", record["file"])
