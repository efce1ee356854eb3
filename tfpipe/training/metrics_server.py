"""A run's figures for Prometheus, while it trains."""

import time
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tfpipe.core.errors import ConfigError
from tfpipe.training.observers import Observer, StepRecord
from tfpipe.training.telemetry import communication_shares


class MetricsServer(Observer):
    """Serves /metrics while it is entered.

    Args:
        host: Address that is listened on.
        port: TCP port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        # Its own: a process that trains twice would register every name twice.
        self._registry = CollectorRegistry()
        self._server: Any = None
        self._step = self._gauge("step", "Optimizer updates of the run so far.")
        self._epoch = self._gauge("epoch", "Epoch under way, from 0.")
        self._loss = self._gauge("loss", "Loss of the last step, mean over its samples.")
        self._samples_per_second = self._gauge("samples_per_second", "Of the last step, all workers together.")
        self._gradient_norm = self._gauge("gradient_norm", "Global norm of the last step's gradients, before clipping.")
        self._last_step = self._gauge("last_step_timestamp_seconds", "When the last step ended, in Unix time.")
        self._communication = self._gauge(
            "communication_ratio", "Share of the last epoch's time in communication and waiting for others.", "rank"
        )

    def __enter__(self) -> "MetricsServer":
        """Listen.

        Raises:
            ConfigError: The port is taken, or the address is none of this machine's.
        """
        try:
            self._server, _ = start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            raise ConfigError(
                f"training.metrics_port: expected a free port at {self._host!r}, but {self._port} cannot be listened "
                f"on: {error.strerror or error}. Choose another one."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def on_epoch_begin(self, epoch: int) -> None:
        """Serve its number."""
        self._epoch.set(epoch)

    def on_step(self, record: StepRecord) -> None:
        """Serve its figures."""
        self._step.set(record.step)
        self._loss.set(record.loss)
        self._samples_per_second.set(record.samples / max(record.input_s + record.step_s, 1e-9))
        self._gradient_norm.set(record.gradient_norm)
        self._last_step.set(time.time())

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Serve the workers' shares, which are known by now."""
        for rank, share in communication_shares(metrics).items():
            self._communication.labels(str(rank)).set(share)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"tfpipe_train_{name}", text, labels, registry=self._registry)
