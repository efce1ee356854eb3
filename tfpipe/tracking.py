"""The record of a run in MLflow: every value of its configuration, every metric, its files. Rank 0 owns it.

How values are written:

    parameters   one per configuration key, in YAML: `yaml.safe_load` gives the value back. Where one is longer than the
                 6000 characters that MLflow takes it reads "see params.yaml", an artefact of the run that has them all
    metrics      by epoch; NaN stays NaN, and infinity is MLflow's 1.797e308 on a SQL store
    resumed run  goes on in the same run; a parameter that changed keeps its first value, the tag tfpipe.resumed.<key>
                 has the present one

What fails after the start is kept, in order, and tried again at the next call: training does not depend on the server.
What is still unsent at the end goes to `tracking_pending.json` in the output folder, for `send_pending`.
"""

import io
import logging
import posixpath
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from tfpipe.config import flatten, to_yaml, yaml_text
from tfpipe.core.errors import RegistryError, TrackingError
from tfpipe.outbox import PENDING_FILE, Outbox
from tfpipe.settings import Config
from tfpipe.store import (
    VENDOR_ERRORS,
    MlflowClient,
    MlflowException,
    Param,
    RunTag,
    connect,
    create_store,
    reason,
    retrying,
    sqlite_path,
    store_uri,
)

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
SEE_PARAMS = "see params.yaml"

_MAX_PARAM_LENGTH = 6000
_METRIC_NAME = re.compile(r"[\w.\- :/]{1,250}")
_SYSTEM_SAMPLING_S = 5.0
# After an attempt that failed, training is left alone for so many times the time that it took: a server that hangs
# costs a tenth of the training time at most.
_REST_FACTOR = 9.0


class Tracker(Protocol):
    """Where a run is recorded."""

    @property
    def run_id(self) -> str | None:
        """The run; None where nothing is recorded."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values of one step."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Record a file as it is on disk; it must stay there until `finish`."""

    def log_text(self, text: str, file: str) -> None:
        """Record a text under a file name."""

    def log_figure(self, figure: Any, name: str) -> None:
        """Record a matplotlib figure as the PNG file figures/<name>."""

    def finish(self, status: Status) -> None:
        """End the run. Nothing is recorded after it."""

    def suspend(self) -> None:
        """Stop recording without ending the run."""

    def ui_hint(self) -> str:
        """What to type or open to look at the run."""


class NoTracker:
    """A tracker that records nothing: that of every rank but 0."""

    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Nothing."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Nothing."""

    def log_text(self, text: str, file: str) -> None:
        """Nothing."""

    def log_figure(self, figure: Any, name: str) -> None:
        """Nothing."""

    def finish(self, status: Status) -> None:
        """Nothing."""

    def suspend(self) -> None:
        """Nothing."""

    def ui_hint(self) -> str:
        """Nothing to look at."""
        return ""


class MlflowTracker:
    """A run in an MLflow store. Made by `start`."""

    def __init__(self, uri: str, run_id: str, experiment_id: str, *, output_dir: Path, retry_s: float) -> None:
        self._outbox = Outbox(uri, run_id)
        self._experiment_id = experiment_id
        self._output_dir = output_dir
        self._retry_s = retry_s
        self._failing = False
        self._rest_until_s = 0.0
        self._monitor = _start_monitor(uri, run_id)

    @classmethod
    def start(
        cls,
        config: Config,
        *,
        run_id: str | None = None,
        extra_tags: Mapping[str, str] | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> "MlflowTracker":
        """Open a run and record the whole configuration in it.

        Args:
            config: The resolved configuration; `config.tracking` says where.
            run_id: A run to go on with. Where the store does not know it (another store than before), a new run is
                made, tagged tfpipe.resumed_run.
            extra_tags: Beside `config.tracking.tags`.
            extra_params: Beside the configuration, e.g. the number of workers.

        Raises:
            TrackingError: The store cannot be reached or written for `config.tracking.retry_s`; nothing was trained.
        """
        uri, retry_s = store_uri(config.tracking.uri), config.tracking.retry_s
        output_dir = Path(config.output_dir)
        texts = {key: value_text(value) for key, value in {**flatten(config), **(extra_params or {})}.items()}
        tags = {**config.tracking.tags, **(extra_tags or {})}
        try:
            create_store(uri)
            earlier = Outbox.load(output_dir) if run_id is not None else None
            if earlier is not None and (earlier.uri, earlier.run_id) == (uri, run_id):
                _send_patiently(earlier, output_dir, retry_s)
            experiment_id, opened = retrying(
                lambda: _open_run(connect(uri), uri, config, run_id), uri=uri, retry_s=retry_s
            )
            retrying(lambda: _describe_run(connect(uri), opened, config, texts, tags), uri=uri, retry_s=retry_s)
        except (TrackingError, RegistryError) as error:
            raise TrackingError(f"{error} Nothing was trained.") from error
        except VENDOR_ERRORS as error:
            raise TrackingError(f"tracking store {uri}: {reason(error)}. Nothing was trained.") from error
        return cls(uri, opened, experiment_id, output_dir=output_dir, retry_s=retry_s)

    @property
    def run_id(self) -> str:
        """The MLflow run."""
        return self._outbox.run_id

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values of one step.

        Args:
            metrics: By name: letters, digits, spaces, and _ - . / :
            step: The epoch or the optimizer update.

        Raises:
            TrackingError: A name that MLflow cannot store.
        """
        for name in metrics:
            _check_metric_name(name)
        values = {name: float(value) for name, value in metrics.items()}
        self._outbox.add_metrics(values, step=step)
        self._send_unless_resting()

    def log_file(self, path: Path, folder: str = "") -> None:
        """Record a file as it is on disk; it must stay there until `finish`."""
        self._outbox.add_file(path, folder)
        self._send_unless_resting()

    def log_text(self, text: str, file: str) -> None:
        """Record a text under a file name."""
        self._outbox.add_content(text.encode(), file)
        self._send_unless_resting()

    def log_figure(self, figure: Any, name: str) -> None:
        """Record a matplotlib figure as the PNG file figures/<name>."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        self._outbox.add_content(buffer.getvalue(), f"figures/{name}")
        self._send_unless_resting()

    def finish(self, status: Status) -> None:
        """End the run; waits for a server that is away as long as `tracking.retry_s`.

        Raises:
            TrackingError: Part of the record could not be sent; it lies in the output folder, and the message says how
                to send it later.
        """
        if self._outbox.status is not None:
            return
        self._outbox.status = status
        sent = self._try_to_send()
        if not sent:
            # At once: whoever stops us need not wait until we give up.
            self._outbox.save(self._output_dir)
        self._monitor.finish()
        if not sent:
            _send_patiently(self._outbox, self._output_dir, self._retry_s)

    def suspend(self) -> None:
        """Stop recording without ending the run; `start` with its run_id goes on with it."""
        if not self._try_to_send():
            self._outbox.save(self._output_dir)
        self._monitor.finish()

    def ui_hint(self) -> str:
        """What to type or open to look at the run."""
        uri = self._outbox.uri
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"

    def _try_to_send(self) -> bool:
        started_s = time.monotonic()
        try:
            self._outbox.send()
        except VENDOR_ERRORS as error:
            if not self._failing:
                logger.warning(
                    "tracking store %s failed (%s); training goes on, what it records is kept.",
                    self._outbox.uri,
                    reason(error),
                )
            self._failing = True
            now_s = time.monotonic()
            self._rest_until_s = now_s + _REST_FACTOR * (now_s - started_s)
            return False
        if self._failing:
            logger.warning("tracking store %s answers again; what was kept is sent.", self._outbox.uri)
            self._failing = False
            # It gives up at its first failure.
            self._monitor.finish()
            self._monitor = _start_monitor(self._outbox.uri, self.run_id)
        return True

    def _send_unless_resting(self) -> None:
        if time.monotonic() >= self._rest_until_s:
            self._try_to_send()


def log_epoch(tracker: Tracker, epoch: int, metrics: Mapping[str, float]) -> None:
    """Record the metrics of an epoch: loss, val_loss where there are validation data, and every other one.

    Args:
        tracker: Where to.
        epoch: The step under which MLflow keeps them.
        metrics: By name.

    Raises:
        TrackingError: There is no `loss`, or a name cannot be stored.
    """
    if "loss" not in metrics:
        raise TrackingError(f"epoch {epoch}: expected metrics with 'loss', received {', '.join(metrics) or 'none'}.")
    tracker.log_metrics(metrics, step=epoch)


def send_pending(output_dir: Path, *, retry_s: float = 60.0) -> int:
    """Send what a run could not send while the server was away.

    Args:
        output_dir: Folder of the run.
        retry_s: Seconds for which a server that is away is tried again.

    Returns:
        How many records were sent; 0 where none were pending.

    Raises:
        TrackingError: The server is still away, or refuses; what is left stays in the folder.
    """
    outbox = Outbox.load(output_dir)
    if outbox is None:
        return 0
    count = len(outbox)
    _send_patiently(outbox, output_dir, retry_s)
    return count


def _check_metric_name(name: str) -> None:
    # MLflow also refuses names that would be another path as a file.
    is_path = posixpath.normpath(name) == name and name != "." and not name.startswith(("/", ".."))
    if not (is_path and _METRIC_NAME.fullmatch(name)):
        raise TrackingError(
            f"metric {name!r}: expected a name of at most 250 letters, digits, spaces, '_', '-', '.', ':' "
            "and '/' between them. Rename the metric."
        )


def value_text(value: Any) -> str:
    """A configuration value as MLflow keeps it; `yaml.safe_load` gives the value back."""
    text = yaml_text(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _open_run(client: MlflowClient, uri: str, config: Config, run_id: str | None) -> tuple[str, str]:
    """Experiment and run: the one to go on with, else a new one."""
    tags = {}
    if run_id is not None:
        try:
            run = client.get_run(run_id)
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            logger.warning("tracking store %s does not know the run %s; a new run goes on with it.", uri, run_id)
            tags["tfpipe.resumed_run"] = run_id
        else:
            return run.info.experiment_id, run_id
    experiment_id = _experiment(client, uri, config.tracking.experiment)
    run = client.create_run(experiment_id, tags=tags, run_name=Path(config.output_dir).name)
    return experiment_id, run.info.run_id


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    path = sqlite_path(uri)
    # Beside the database: MLflow's default is a folder of wherever the command was typed.
    location = (path.parent / "mlruns").as_uri() if path is not None else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _experiment(client, uri, name)


def _describe_run(
    client: MlflowClient, run_id: str, config: Config, texts: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    known = client.get_run(run_id).data.params
    short = {key: text if len(text) <= _MAX_PARAM_LENGTH else SEE_PARAMS for key, text in texts.items()}
    changed = {f"tfpipe.resumed.{key}": text for key, text in short.items() if known.get(key, text) != text}
    client.log_batch(
        run_id,
        params=[Param(key, text) for key, text in short.items() if key not in known],
        tags=[RunTag(key, value) for key, value in {**tags, **changed}.items()],
    )
    client.log_text(run_id, to_yaml(config), "config.yaml")
    if SEE_PARAMS in short.values():
        client.log_text(run_id, yaml_text(dict(texts)), "params.yaml")


def _send_patiently(outbox: Outbox, output_dir: Path, retry_s: float) -> None:
    """Send all, and take the file away; or leave in it what is still unsent."""
    try:
        retrying(outbox.send, uri=outbox.uri, retry_s=retry_s)
    except (TrackingError, *VENDOR_ERRORS) as error:
        outbox.save(output_dir)
        raise _unsent(outbox, output_dir, error) from error
    (output_dir / PENDING_FILE).unlink(missing_ok=True)


def _unsent(outbox: Outbox, output_dir: Path, error: BaseException) -> TrackingError:
    cause = str(error) if isinstance(error, TrackingError) else f"tracking store {outbox.uri}: {reason(error)}."
    return TrackingError(
        f"{cause} The training result is kept; what MLflow lacks is in {output_dir / PENDING_FILE}. "
        f"Once the server is back, send it: python -m tfpipe.train --resume output_dir={output_dir}"
    )


def _start_monitor(uri: str, run_id: str) -> Any:
    """CPU, memory, disk, network and GPU (where nvidia-ml-py is installed) as metrics system/..., in a thread."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    options = {"sampling_interval": _SYSTEM_SAMPLING_S, "resume_logging": True, "tracking_uri": uri}
    monitor = SystemMetricsMonitor(run_id, **options)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor
