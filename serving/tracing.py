"""OpenTelemetry traces of requests, where somebody asked for them; the libraries are an extra, `tfpipe[tracing]`.

A request's span is made when it was answered, of times that were measured anyway, so that a service without tracing
pays nothing for it and one with it little.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import tfpipe
from serving.request import Request
from tfpipe.core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_PATH = "/v1/traces"
_NS = 1e9


class Tracing:
    """Makes a span a request, with a child a stage, and sends them from a thread of its own."""

    def __init__(self, exporter: "SpanExporter", *, batched: bool = True) -> None:
        """Start.

        Args:
            exporter: Where spans go. OpenTelemetry's own environment variables name the service (OTEL_SERVICE_NAME)
                and choose what is sampled (OTEL_TRACES_SAMPLER); by default all but what a client's traceparent rules
                out.
            batched: Send many at a time, and drop what does not fit where the receiver is away; else each at once.
        """
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "tfpipe"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor((BatchSpanProcessor if batched else SimpleSpanProcessor)(exporter))
        self._tracer = self._provider.get_tracer("tfpipe.serving", tfpipe.__version__)
        self._trace, self._propagator = trace, TraceContextTextMapPropagator()

    def record(
        self,
        request: Request,
        *,
        status: int,
        seconds: float,
        stages: Mapping[str, float],
        attributes: Mapping[str, str],
    ) -> None:
        """Make the spans of a request that was answered now.

        Args:
            request: With the client's `traceparent`, under which its span then stands.
            status: Status code of the answer.
            seconds: From its arrival to its answer.
            stages: Seconds of each, in their order; they are drawn one after the other.
            attributes: What else is known of it, e.g. model and version.
        """
        trace = self._trace
        end_ns = time.time_ns()
        start_ns = end_ns - int(seconds * _NS)
        headers = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := request.headers.get(name.encode()))
        }
        span = self._tracer.start_span(
            f"{request.method} {request.path}",
            self._propagator.extract(headers),
            trace.SpanKind.SERVER,
            {
                "http.request.method": request.method,
                "url.path": request.path,
                "http.response.status_code": status,
                "tfpipe.request_id": request.id,
                **attributes,
            },
            start_time=start_ns,
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(span)
        for stage, stage_s in stages.items():
            stage_end_ns = min(end_ns, start_ns + int(stage_s * _NS))
            child = self._tracer.start_span(stage, inside, start_time=start_ns)
            child.end(stage_end_ns)
            start_ns = stage_end_ns
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left; takes as long as the receiver does, some seconds at most."""
        self._provider.shutdown()


def open_tracing(endpoint: str | None) -> Tracing | None:
    """Tracing to a receiver of OTLP over HTTP; None where none is named.

    Args:
        endpoint: Base address, e.g. "http://127.0.0.1:4318".

    Raises:
        ConfigError: It is no address, or the libraries are not installed.
    """
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"TFPIPE_SERVING_TRACES_ENDPOINT: expected http://... or https://..., received {endpoint!r}.")
    try:
        from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"TFPIPE_SERVING_TRACES_ENDPOINT is set, but {error.name} cannot be imported. "
            "Install it with `pip install tfpipe[tracing]`."
        ) from error
    return Tracing(OTLPSpanExporter(endpoint.rstrip("/").removesuffix(_PATH) + _PATH))
