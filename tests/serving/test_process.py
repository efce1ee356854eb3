"""`python -m serving` as a process: how it starts, fails and stops."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import PATIENCE_S, Process, process, wait_for

# What a service says where it has nothing to measure.
NOT_WATCHED = ("no GPU is measured", "drift is not watched")


def until_ready(started: Process) -> None:
    wait_for(started.is_ready)


def failure(*arguments: str, **settings: str) -> tuple[int, str]:
    """Exit code and what was written on standard error, but for news: where it listens, whether there is a GPU."""
    with process(*arguments, **settings) as started:
        code = started.wait()
    is_news = (line.startswith("{") and json.loads(line)["level"] == "info" for line in started.lines)
    return code, "".join(line for line, news in zip(started.lines, is_news, strict=True) if not news)


@pytest.fixture(scope="module")
def running(bundle):
    with process("--model", str(bundle), max_body_bytes="1000000") as started:
        until_ready(started)
        yield started


def test_a_bundle_is_served_and_a_signal_ends_it_with_0(bundle):
    with process("--model", str(bundle), "--precision", "fp16") as started:
        until_ready(started)
        answer = started.post("/predict", content=RED).json()
        started.signal(signal.SIGTERM)
        code = started.wait()

    assert answer["precision"] == "fp16"
    assert code == 0
    # That there is no GPU to measure, and nothing to compare traffic with, is not said everywhere.
    told = [event["message"] for event in started.events() if event["message"].partition(":")[0] not in NOT_WATCHED]
    assert told == ["listening", "ready", "draining"]


def test_it_listens_at_once_and_says_that_it_loads(slow_bundle):
    with process("--model", str(slow_bundle)) as started:
        health = started.get("/health")
        refused = started.post("/predict", content=RED)
        live = started.get("/health/live")
        until_ready(started)

    assert (health.status_code, health.json()) == (503, {"status": "loading", "models": []})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert refused.headers["retry-after"] == "1"
    assert live.status_code == 200


def test_a_signal_while_it_loads_ends_it(slow_bundle):
    with process("--model", str(slow_bundle)) as started:
        started.signal(signal.SIGINT)
        assert started.wait() == 0


def test_a_drain_lets_active_requests_finish_and_refuses_others(bundle):
    with process("--model", str(bundle)) as started, _half_sent(started, RED) as (connection, rest):
        started.signal(signal.SIGTERM)
        wait_for(lambda: started.get("/health").json()["status"] == "draining")
        refused = started.post("/predict", content=RED)
        connection.sendall(rest)
        answered = connection.recv(65536)
        code = started.wait()

    assert refused.status_code == 503
    assert answered.startswith(b"HTTP/1.1 200")
    assert code == 0


def test_a_drain_ends_in_time(bundle):
    with process("--model", str(bundle), drain_ms="100") as started, _half_sent(started, RED) as (connection, _):
        started.signal(signal.SIGTERM)
        answered = connection.recv(65536)
        code = started.wait()

    assert answered.startswith(b"HTTP/1.1 503")
    assert code == 0


def test_a_second_signal_ends_the_drain(bundle):
    with process("--model", str(bundle)) as started, _half_sent(started, RED) as (connection, _):
        started.signal(signal.SIGINT)
        wait_for(lambda: any(event["message"] == "draining" for event in started.events()))
        started.signal(signal.SIGINT)
        answered = connection.recv(65536)
        code = started.wait()

    assert answered.startswith(b"HTTP/1.1 503")
    assert code == 0


def test_work_that_cannot_be_interrupted_does_not_hold_the_process(tmp_path):
    endless = make_bundle(tmp_path / "b", work=300)
    with process("--model", str(endless), drain_ms="100", max_batch_size="1") as started:
        until_ready(started)
        files = [("files", ("a.png", RED))] * 256
        request = threading.Thread(target=_ignore_refusal, args=(f"{started.url}/predict/batch", files))
        request.start()
        wait_for(lambda: "tfpipe_in_flight 1.0" in started.get("/metrics").text)
        started.signal(signal.SIGTERM)
        code = started.wait()
        request.join(PATIENCE_S)

    assert code == 0


def test_100_mb_are_refused_without_taking_them_into_memory(running):
    before_kb = _peak_memory_kb(running.pid)

    responses = [
        running.post("/predict", content=b"x" * 100_000_000, timeout=PATIENCE_S),
        running.post("/predict", content=(b"x" * 1_000_000 for _ in range(100)), timeout=PATIENCE_S),
        running.post("/predict", files={"file": b"x" * 100_000_000}, timeout=PATIENCE_S),
    ]

    assert [response.status_code for response in responses] == [413] * 3
    assert _peak_memory_kb(running.pid) - before_kb < 20_000


def test_errors_are_logged_as_json_with_their_request_id(running):
    running.post("/predict", content=b"junk", headers={"x-request-id": "find-me"})

    wait_for(lambda: any(event.get("request_id") == "find-me" for event in running.events()))
    event = next(event for event in running.events() if event.get("request_id") == "find-me")
    assert event["level"] == "warning"
    assert (event["status"], event["code"], event["path"]) == (400, "undecodable_image", "/predict")
    assert "received 4 bytes that begin with b'junk'" in event["error"]


def test_a_port_in_use_is_one_sentence_and_exit_code_2(running, bundle):
    port = running.url.rpartition(":")[2]

    code, error = failure("--model", str(bundle), "--port", port)

    assert code == 2
    assert error == (
        f"serving: 127.0.0.1:{port}: expected a free address to listen on; Address already in use. "
        "Choose another with TFPIPE_SERVING_HOST and TFPIPE_SERVING_PORT.\n"
    )


def test_a_port_of_grpc_in_use_is_one_sentence_and_exit_code_2(running, bundle):
    port = running.url.rpartition(":")[2]

    code, error = failure("--model", str(bundle), grpc_port=port)

    assert code == 2
    assert error == (
        f"serving: 127.0.0.1:{port}: expected a free address to listen on; Address already in use. "
        "Choose another with TFPIPE_SERVING_HOST and TFPIPE_SERVING_GRPC_PORT.\n"
    )


def test_a_bundle_with_one_byte_changed_is_refused(tmp_path):
    folder = make_bundle(tmp_path / "b")
    path = folder / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    code, error = failure("--model", str(folder))

    assert code == 2
    assert error.startswith(f"serving: {path}: expected sha256 ")
    assert error.count("\n") == 1


def test_golden_answers_that_differ_are_refused_with_exit_code_3(tmp_path):
    code, error = failure("--model", str(make_bundle(tmp_path / "b", golden_offset=0.1)))

    assert code == 3
    assert error.startswith("serving: golden samples of 'colours', int8 on cpu, in batches: expected answers within")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "/nowhere"}, "/nowhere: expected a bundle (a folder with bundle.json) or models:/NAME/VERSION"),
        ({"precision": "int4"}, "colours: expected precision fp16, fp32, int8, received 'int4'"),
        (
            {"provider": "gpu"},
            "TFPIPE_SERVING_PROVIDER: expected 'auto', 'cpu', 'openvino', 'cuda' or 'tensorrt', received 'gpu'",
        ),
        ({"provider": "tensorrt"}, "received 'tensorrt', which is not installed here"),
        ({"host": "999.1.2.3"}, "999.1.2.3:0: expected a free address to listen on"),
        ({"max_batch_size": "0"}, "TFPIPE_SERVING_MAX_BATCH_SIZE: expected greater than or equal to 1, received '0'"),
        (
            {"model": "models:/digits/1", "cache_dir": "/proc/none"},
            "TFPIPE_SERVING_CACHE_DIR: expected a folder that can be written, but '/proc/none': ",
        ),
        ({"threads": "100000"}, "TFPIPE_SERVING_THREADS: expected less than or equal to 1024, received '100000'"),
        ({"sessions": "100000"}, "TFPIPE_SERVING_SESSIONS: expected less than or equal to 1024, received '100000'"),
        ({"model": "a,,b"}, "model: expected a model, or several with commas between them, received 'a,,b'"),
        ({"prot": "1"}, "TFPIPE_SERVING_PROT: unknown setting. Did you mean TFPIPE_SERVING_PORT?"),
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence_and_exit_code_2(bundle, settings, sentence):
    code, error = failure(**{"model": str(bundle), **settings})

    assert code == 2
    assert sentence in error
    assert error.count("\n") == 1


def test_a_registry_without_models_is_one_sentence_and_exit_code_2(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    result = subprocess.run(
        [sys.executable, "-m", "serving", "--port", "0"],
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        timeout=120,
    )

    errors = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert result.returncode == 2
    assert len(errors) == 1
    assert errors[0].startswith("serving: ")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": "0"},
        {"model": "models:/a/1", "cache_dir": "/proc/none"},
        {"model": "/nowhere"},
        {"tls_cert_file": "/nowhere"},
    ],
)
def test_wrong_settings_end_it_before_the_port_is_looked_at(running, bundle, settings):
    port = running.url.rpartition(":")[2]

    code, error = failure(**{"model": str(bundle), "port": port, **settings})

    assert code == 2
    assert "free address" not in error


def test_a_registry_that_is_away_is_asked_until_the_wait_ends(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "TFPIPE_SERVING_REGISTRY_WAIT_MS": "1500",
        "TFPIPE_SERVING_CACHE_DIR": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-m", "serving", "--port", "0", "--model", "models:/digits@champion"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"serving: http://127.0.0.1:{port}: expected an MLflow store that answers within 1.5 s, received: "
    )


def test_help_lists_every_setting():
    result = subprocess.run([sys.executable, "-m", "serving", "--help"], capture_output=True, text=True, check=True)

    assert "--max-body-bytes, TFPIPE_SERVING_MAX_BODY_BYTES (integer; 33554432)" in result.stdout
    assert "--registered-model, TFPIPE_REGISTERED_MODEL (text; unset)" in result.stdout


@contextlib.contextmanager
def _half_sent(started: Process, content: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """A request in flight, half of whose body was sent; gives the connection and the other half."""
    until_ready(started)
    host, port = started.url.removeprefix("http://").split(":")
    half = len(content) // 2
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:half])
        wait_for(lambda: "tfpipe_in_flight 1.0" in started.get("/metrics").text)
        yield connection, content[half:]


def _ignore_refusal(url: str, files: list) -> None:
    try:
        httpx.post(url, files=files, timeout=PATIENCE_S)
    except httpx.HTTPError:
        return


def _peak_memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
