import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.request import Request
from serving.tracing import Tracing, open_tracing
from tests.serving.bundles import RED
from tests.serving.otlp_receiver import receiver
from tests.serving.servers import app_of, serving
from tfpipe.core.errors import ConfigError

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def request(**headers: str) -> Request:
    given = {name.encode(): value.encode() for name, value in headers.items()}
    return Request(id="abc", method="POST", path="/predict", headers=given, query=b"")


def spans_of(asked: Request, *, status: int = 200):
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, batched=False)
    stages = {"decode": 0.1, "run": 0.25}
    tracing.record(asked, status=status, seconds=0.5, stages=stages, attributes={"tfpipe.model": "digits"})
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_has_a_span_with_a_child_a_stage_in_their_order():
    spans = spans_of(request())

    whole, decode, run = spans["POST /predict"], spans["decode"], spans["run"]
    assert whole.end_time - whole.start_time == 5e8
    assert (decode.start_time, decode.end_time - decode.start_time) == (whole.start_time, 1e8)
    assert (run.start_time, run.end_time - run.start_time) == (decode.end_time, 2.5e8)
    assert {decode.parent.span_id, run.parent.span_id} == {whole.context.span_id}
    assert whole.attributes["tfpipe.model"] == "digits"
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.resource.attributes["service.name"] == "tfpipe"
    assert whole.parent is None


def test_the_clients_trace_goes_on():
    span = spans_of(request(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="a=b"))["POST /predict"]

    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT
    assert span.context.trace_state.get("a") == "b"


def test_what_the_client_does_not_sample_is_not_sent():
    assert spans_of(request(traceparent=f"00-{TRACE}-{PARENT}-00")) == {}


@pytest.mark.parametrize("given", ["", "00-zz-zz-01", "ü", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_that_is_none_begins_a_trace(given):
    assert spans_of(request(traceparent=given))["POST /predict"].parent is None


def test_a_request_that_the_service_failed_is_marked():
    assert spans_of(request(), status=500)["POST /predict"].status.status_code.name == "ERROR"
    assert spans_of(request(), status=400)["POST /predict"].status.status_code.name == "UNSET"


def test_stages_that_overlap_stay_inside_their_request():
    exporter = InMemorySpanExporter()
    Tracing(exporter, batched=False).record(request(), status=200, seconds=0.1, stages={"run": 9.0}, attributes={})

    run, whole = exporter.get_finished_spans()
    assert run.end_time == whole.end_time


def test_without_an_endpoint_there_is_no_tracing_and_its_libraries_are_not_imported():
    assert open_tracing(None) is None
    script = "import sys, serving.app, serving.tracing; sys.exit('opentelemetry.sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_endpoint_must_be_an_address():
    with pytest.raises(ConfigError, match=r"expected http://... or https://..., received 'localhost:4318'"):
        open_tracing("localhost:4318")


def test_what_is_not_installed_is_named_with_its_command():
    script = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from serving.tracing import open_tracing; open_tracing('http://127.0.0.1:1')"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert "Install it with `pip install tfpipe[tracing]`." in ended.stderr


def test_spans_reach_a_receiver_of_otlp():
    with receiver() as received:
        tracing = open_tracing(received.url + "/")
        tracing.record(request(), status=200, seconds=0.1, stages={"run": 0.05}, attributes={})
        tracing.close()

    assert received.paths == {"/v1/traces"}
    assert {span["name"] for span in received.spans} == {"POST /predict", "run"}


def test_a_services_requests_are_traced_with_their_stages(bundle):
    with receiver() as received, serving(app_of(bundle, traces_endpoint=received.url)) as server:
        server.client.post("/predict", content=RED, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        server.client.post("/predict", content=b"junk")

    spans = {span["name"] for span in received.spans}
    traced = [span for span in received.spans if span["traceId"] == TRACE]
    whole = next(span for span in traced if span["name"] == "POST /predict")
    assert spans == {"POST /predict", "body", "decode", "preprocess", "queue", "run", "postprocess"}
    assert whole["parentSpanId"] == PARENT
    attributes = {one["key"]: one["value"] for one in whole["attributes"]}
    assert attributes["tfpipe.model"] == {"stringValue": "colours"}
    # Of what could not be decoded, only its body was taken in.
    assert len(received.spans) == 7 + 2


def test_a_receiver_that_is_away_costs_no_answer(bundle):
    with serving(app_of(bundle, traces_endpoint="http://127.0.0.1:9")) as server:
        assert server.client.post("/predict", content=RED).status_code == 200
