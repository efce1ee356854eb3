"""POST /predict and /predict/batch over a real socket."""

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.cpus import usable_cores
from serving.routes.inputs import MAX_INPUTS
from serving.schemas import ErrorAnswer, PredictAnswer
from tests.serving.bundles import BLUE, GREEN, RED, image_bytes, make_bundle, reference
from tests.serving.servers import Server, app_of, serving, wait_for
from tfpipe.core.bundle import open_bundle
from tfpipe.core.parity import BOUNDS, assert_parity

BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}


def refusal(response: httpx.Response) -> dict:
    """The error of a response, whose form and headers are checked."""
    assert response.headers["content-type"] == "application/json"
    error = ErrorAnswer.model_validate(response.json()).error
    assert error.request_id == response.headers["x-request-id"]
    return error.model_dump()


def files(*contents: bytes) -> list:
    return [("files", (f"{index}.png", content)) for index, content in enumerate(contents)]


def test_an_image_in_a_form_is_answered(client, bundle):
    response = client.post("/predict", files={"file": ("red.png", RED)})

    answer = response.json()
    assert response.status_code == 200
    assert answer["predictions"][0]["label"] == "red"
    assert answer["predictions"][0]["score"] == answer["predictions"][0]["probabilities"]["red"]
    assert answer["model_name"] == "colours"
    assert answer["model_version"] == "3"
    assert answer["precision"] == "int8"
    assert answer["provider"] == "cpu"
    assert answer["bundle"] == open_bundle(bundle).sha256[:12]
    assert answer["latency_ms"] > 0
    PredictAnswer.model_validate(answer)


@pytest.mark.parametrize("media", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_any_other_content_type_is_one_image(client, media):
    response = client.post("/predict", content=BLUE, headers={"content-type": media} if media else {})

    assert response.json()["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_every_format_is_read(client, format):
    response = client.post("/predict", content=image_bytes((10, 250, 10), (30, 20), format))

    assert response.json()["predictions"][0]["label"] == "green"


def test_answers_are_those_of_the_reference(bundle):
    contents = [image_bytes((200, 150, 100), (1, 1)), image_bytes((90, 120, 100), (77, 12), "JPEG"), BLUE]

    with serving(app_of(bundle, precision="fp32")) as server:
        predictions = server.client.post("/predict/batch", files=files(*contents)).json()["predictions"]

    for content, prediction in zip(contents, predictions, strict=True):
        received = np.array([prediction["probabilities"][label] for label in ("red", "green", "blue")], np.float32)
        assert_parity(received, reference(content), BOUNDS["fp32"], where="HTTP")


def test_headers_name_who_answered(client):
    response = client.post("/predict", content=RED, headers={"x-request-id": "abc-1"})

    assert response.headers["x-request-id"] == "abc-1" == response.json()["request_id"]
    assert response.headers["x-model-name"] == "colours"
    assert response.headers["x-model-version"] == "3"
    assert response.headers["x-model-precision"] == "int8"
    stages = [stage.split(";")[0] for stage in response.headers["server-timing"].split(", ")]
    # With one core pixels are prepared in their batch.
    prepared = ["preprocess", "queue"] if usable_cores() > 1 else ["queue", "preprocess"]
    assert stages == ["body", "decode", *prepared, "run", "postprocess", "total"]


def test_requests_without_an_id_get_different_ones(client):
    ids = {client.post("/predict", content=RED).headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


def test_a_batch_is_answered_in_the_order_of_its_files(client):
    contents = [RED, GREEN, BLUE, BLUE, GREEN, RED, RED, GREEN, BLUE]

    answer = client.post("/predict/batch", files=files(*contents)).json()

    labels = [prediction["label"] for prediction in answer["predictions"]]
    assert labels == ["red", "green", "blue", "blue", "green", "red", "red", "green", "blue"]


def test_a_row_that_fails_has_its_error_in_its_place(client):
    response = client.post(
        "/predict/batch", files=files(RED, b"no image", b"", image_bytes((0, 0, 0), (200, 200)), BLUE)
    )

    rows = response.json()["predictions"]
    assert response.status_code == 200
    assert [rows[0]["label"], rows[4]["label"]] == ["red", "blue"]
    assert [row["error"]["code"] for row in rows[1:4]] == ["undecodable_image", "undecodable_image", "too_large"]
    PredictAnswer.model_validate(response.json())


def test_a_batch_in_which_every_row_fails_is_400(client):
    response = client.post("/predict/batch", files=files(b"no image", b"neither"))

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "all_rows_failed"
    assert [row["error"]["code"] for row in response.json()["predictions"]] == ["undecodable_image"] * 2


def test_a_batch_of_too_many_files_is_413(client):
    response = client.post("/predict/batch", files=files(*[b"x"] * (MAX_INPUTS + 1)))

    assert response.status_code == 413
    assert refusal(response)["message"] == f"body: expected at most {MAX_INPUTS} files, received more."


@pytest.mark.parametrize(
    ("content", "status", "code", "sentence"),
    [
        (b"", 400, "undecodable_image", "received 0 bytes"),
        (b"just some text\n", 400, "undecodable_image", "received 15 bytes that begin with b'just som'"),
        (RED[:60], 400, "undecodable_image", "received a damaged one"),
        (image_bytes((0, 0, 0), (101, 100)), 413, "too_large", "expected at most 10000 pixels, received 100 x 101"),
        (b"x" * 1_000_001, 413, "too_large", "expected at most 1000000 bytes"),
    ],
)
@pytest.mark.parametrize("as_form", [False, True])
def test_an_image_that_cannot_be_read_is_refused(client, content, status, code, sentence, as_form):
    body = {"files": {"file": ("picture.jpg", content)}} if as_form else {"content": content}

    response = client.post("/predict", **body)

    assert response.status_code == status
    assert refusal(response)["code"] == code
    assert sentence in refusal(response)["message"]


def test_a_huge_picture_in_a_small_file_is_413(bundle):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")

    with serving(app_of(bundle)) as server:
        response = server.client.post("/predict", content=file.getvalue())

    assert response.status_code == 413
    assert "received 20000 x 20000" in refusal(response)["message"]


def test_a_body_of_unknown_length_is_counted(client):
    response = client.post("/predict", content=(b"x" * 100_000 for _ in range(30)))

    assert response.status_code == 413
    assert refusal(response)["details"] == {"max_bytes": 1_000_000}


@pytest.mark.parametrize(
    ("path", "field", "count", "sentence"),
    [
        ("/predict", "file", 0, "expected one file in the field 'file', received 0"),
        ("/predict", "file", 2, "expected one file in the field 'file', received 2"),
        ("/predict", "image", 1, "expected files in the field 'file', received the field 'image'"),
        ("/predict/batch", "files", 0, "expected files in the field 'files', received none"),
        ("/predict/batch", "file", 1, "expected files in the field 'files', received the field 'file'"),
    ],
)
def test_a_form_with_other_files_than_expected_is_400(client, path, field, count, sentence):
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\nx\r\n' % field.encode()

    response = client.post(path, content=part * count + b"--b--\r\n", headers=BOUNDARY)

    assert response.status_code == 400
    assert sentence in refusal(response)["message"]


@pytest.mark.parametrize(
    ("media", "body", "sentence"),
    [
        ("multipart/form-data", b"--b--\r\n", "expected multipart/form-data with a boundary"),
        ("multipart/form-data; boundary=", b"--b--\r\n", "expected multipart/form-data with a boundary"),
        ("multipart/form-data; boundary=b", b"not a form", "received a malformed one"),
        ("multipart/form-data; boundary=b", b"", "but it ends before"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx',
            "ends before",
        ),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\nx\r\n--b--\r\n", "received a part without a name"),
    ],
)
def test_a_malformed_form_is_400(client, media, body, sentence):
    response = client.post("/predict", content=body, headers={"content-type": media})

    assert response.status_code == 400
    assert sentence in refusal(response)["message"]


@pytest.mark.parametrize(
    ("path", "headers", "sentence"),
    [
        ("/predict/batch", {"content-type": "image/png"}, "expected multipart/form-data with the images in fields"),
        ("/predict/batch", {}, "received 'none'"),
        ("/predict", {"content-encoding": "gzip"}, "Content-Encoding: expected none, received 'gzip'"),
    ],
)
def test_a_media_type_that_the_path_does_not_take_is_415(client, path, headers, sentence):
    response = client.post(path, content=b"{}", headers=headers)

    assert response.status_code == 415
    assert sentence in refusal(response)["message"]


@pytest.mark.parametrize(("path", "field"), [("/predict", "file"), ("/predict/batch", "files")])
def test_json_for_a_model_of_images_is_400_that_says_what_it_takes(client, path, field):
    response = client.post(path, json={"text": "red"})

    assert response.status_code == 400
    assert refusal(response)["message"] == (
        f"Content-Type: model 'colours' takes images, expected multipart/form-data with the field '{field}'; "
        "received application/json."
    )


@pytest.mark.parametrize("query", ["", "model_name=colours", "model_name=colours&model_version=3", "features=false"])
def test_a_request_that_names_the_served_model_is_answered(client, query):
    assert client.post(f"/predict?{query}", content=RED).status_code == 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("model_name=colors", "model_name: expected 'colours', received 'colors'"),
        ("model_version=2", "model_version: expected '3' of model 'colours', received '2'"),
        ("model_version=", "model_version: expected '3' of model 'colours', received ''"),
        ("alias=champion", "alias: expected one of [] of model 'colours', received 'champion'"),
    ],
)
def test_a_request_that_names_another_model_is_404(client, query, sentence):
    response = client.post(f"/predict?{query}", content=RED)

    assert response.status_code == 404
    assert refusal(response)["code"] == "unknown_model"
    assert sentence in refusal(response)["message"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("model_versoin=3", "unknown parameter 'model_versoin'. Did you mean 'model_version'?"),
        ("x=1", "unknown parameter 'x'. Known: model_name,"),
        ("timeout_ms=5&timeout_ms=6", "expected 'timeout_ms' once"),
        ("model_version=3&alias=champion", "expected 'model_version' or 'alias', received both"),
        ("features=true", "bundle of model 'colours' gives no features"),
        ("features=yes", "features: expected true or false, received 'yes'"),
        ("timeout_ms=0", "timeout_ms: expected milliseconds above 0, received '0'"),
        ("timeout_ms=nan", "timeout_ms: expected milliseconds above 0, received 'nan'"),
        ("timeout_ms=", "timeout_ms: expected milliseconds above 0, received ''"),
    ],
)
def test_a_query_that_means_nothing_is_400(client, query, sentence):
    response = client.post(f"/predict?{query}", content=RED)

    assert response.status_code == 400
    assert sentence in refusal(response)["message"]


@pytest.mark.parametrize("given", ["a b", "x" * 129, "é".encode()])
def test_a_request_id_that_cannot_be_used_is_400(client, given):
    response = client.post("/predict", content=RED, headers={"x-request-id": given})

    assert response.status_code == 400
    assert "X-Request-ID: expected 1 to 128 visible ASCII characters" in refusal(response)["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_405(client, method):
    response = client.request(method, "/predict")

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert refusal(response)["message"] == f"/predict: expected POST, received {method}."


def test_the_service_goes_on_after_every_refusal(client):
    client.post("/predict", content=b"x" * 2_000_000)
    client.post("/predict", content=b"junk")
    client.post("/predict?timeout_ms=-1", content=RED)

    assert client.post("/predict", content=RED).json()["predictions"][0]["label"] == "red"


def test_an_answer_that_comes_too_late_is_504(slow_bundle):
    with serving(app_of(slow_bundle, max_batch_size=1)) as server:
        responses = [
            server.client.post("/predict?timeout_ms=20", content=RED),
            server.client.post("/predict", content=RED, headers={"x-timeout-ms": "20"}),
        ]
        later = server.client.post("/predict", content=RED)

    assert [response.status_code for response in responses] == [504, 504]
    assert refusal(responses[0])["message"] == "deadline: expected an answer within 20 ms, there was none."
    assert later.status_code == 200


def test_a_body_that_comes_too_slowly_is_408(bundle):
    with serving(app_of(bundle, body_timeout_ms=50)) as server, _connection(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        head, _, body = _receive(connection).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["message"] == "body: expected all of it within 0.05 s, received 3 bytes."


def test_a_client_that_waits_for_leave_is_refused_before_it_sends(server):
    with _connection(server) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
        )
        head = _receive(connection).partition(b"\r\n\r\n")[0]

    assert head.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head


def test_a_client_that_goes_away_is_counted_and_harms_nobody(server):
    with _connection(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")

    def is_counted() -> bool:
        return 'type="client_gone"' in server.client.get("/metrics").text

    wait_for(is_counted)
    assert server.client.post("/predict", content=RED).status_code == 200


def test_requests_side_by_side_get_their_own_answers(server):
    def ask(index: int) -> tuple[str, str]:
        content = (RED, GREEN, BLUE)[index % 3]
        headers = {"x-request-id": f"{index}"}
        answer = httpx.post(f"http://127.0.0.1:{server.port}/predict", content=content, headers=headers).json()
        return answer["predictions"][0]["label"], answer["request_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(120)))

    assert answers == [(("red", "green", "blue")[index % 3], f"{index}") for index in range(120)]


def test_an_unregistered_model_has_no_version(tmp_path: Path):
    with serving(app_of(make_bundle(tmp_path / "b", name="größe", version=None))) as server:
        response = server.client.post("/predict", content=RED)
        refused = server.client.post("/predict?model_version=1", content=RED)

    assert response.json()["model_version"] is None
    assert "x-model-version" not in response.headers
    assert response.headers["x-model-name"] == "gr%C3%B6%C3%9Fe"
    assert "expected none (it is not registered)" in refusal(refused)["message"]


def _connection(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def _receive(connection: socket.socket) -> bytes:
    """One response; the connection stays open, so its length says where it ends."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
