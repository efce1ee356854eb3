"""What is kept of a request once it is answered: metrics, a trace, a line in the log."""

import logging
import time

from serving.request import Request
from serving.service import Service
from serving.tracing import Tracing

logger = logging.getLogger(__name__)


class Recorder:
    """Records requests of every protocol; on the event loop.

    Args:
        service: Whose metrics they count in.
        tracing: Where spans go; None for nowhere.
    """

    def __init__(self, service: Service, tracing: Tracing | None = None) -> None:
        self._service, self._tracing = service, tracing

    def record(self, request: Request, *, protocol: str, status: int) -> None:
        """Record a request that is answered now.

        Args:
            request: With its stages, and the version that it came to.
            protocol: "rest", "v2", "tfserving" or "grpc".
            status: Status code of HTTP.
        """
        seconds = time.monotonic() - request.started_s
        labels = self._service.labels_of(request.deployment)
        self._service.metrics.record_request(
            **labels, code=status, latency_s=seconds, protocol=protocol, stage_s=request.stage_s
        )
        if self._tracing is not None:
            attributes = {"tfpipe.protocol": protocol, **{f"tfpipe.{name}": value for name, value in labels.items()}}
            self._tracing.record(request, status=status, seconds=seconds, stages=request.stage_s, attributes=attributes)
        if logger.isEnabledFor(logging.DEBUG):
            fields = {
                "request_id": request.id,
                "method": request.method,
                "path": request.path,
                "protocol": protocol,
                "status": status,
                "key": request.caller.name,
                **labels,
                "latency_ms": round(seconds * 1000, 3),
                "stages_ms": {stage: round(stage_s * 1000, 3) for stage, stage_s in request.stage_s.items()},
            }
            logger.debug("answered", extra={"fields": fields})
