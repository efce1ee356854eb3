"""POST /predict and /predict/batch with texts, over a real socket."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.routes.inputs import MAX_INPUTS
from serving.schemas import ErrorAnswer, PredictAnswer
from tests.serving.bundles import RED
from tests.serving.servers import app_of, serving
from tests.serving.text_bundles import CLASSES, text_reference
from tests.text.texts import CORPUS

TEXT = "The quick brown fox"


def refusal(response: httpx.Response) -> dict:
    """The error of a response, whose form is checked."""
    assert response.headers["content-type"] == "application/json"
    error = ErrorAnswer.model_validate(response.json()).error
    assert error.request_id == response.headers["x-request-id"]
    return error.model_dump()


@pytest.fixture(scope="module")
def client(text_bundle):
    with serving(app_of(text_bundle, max_batch_size=4, max_text_chars=1000)) as running:
        yield running.client


@pytest.fixture(scope="module")
def tags_client(tags_bundle):
    with serving(app_of(tags_bundle)) as running:
        yield running.client


def test_a_text_in_json_is_answered(client, tokenizer):
    response = client.post("/predict", json={"text": TEXT})

    answer = response.json()
    (prediction,) = answer["predictions"]
    assert response.status_code == 200
    assert list(prediction) == ["label", "score", "probabilities"]
    expected = dict(zip(CLASSES, text_reference(tokenizer, TEXT, task="text_classification").tolist(), strict=True))
    assert prediction["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert prediction["label"] == max(expected, key=expected.__getitem__)
    assert prediction["score"] == prediction["probabilities"][prediction["label"]]
    assert (answer["model_name"], answer["model_version"], answer["precision"]) == ("moods", "5", "fp32")
    PredictAnswer.model_validate(answer)
    stages = [stage.split(";")[0] for stage in response.headers["server-timing"].split(", ")]
    assert stages == ["body", "decode", "preprocess", "queue", "run", "postprocess", "total"]


@pytest.mark.parametrize("text", ["", " ", "größer 😀 京都\u200b\x00\r\n", "שלום"])
@pytest.mark.parametrize("media", ["text/plain", "text/plain; charset=UTF-8", "application/octet-stream", None])
def test_any_other_body_is_one_text_in_utf_8(client, media, text):
    plain = client.post("/predict", content=text.encode(), headers={"content-type": media} if media else {})
    as_json = client.post("/predict", json={"text": text})
    as_file = client.post("/predict", files={"file": ("letter.txt", text.encode())})

    assert plain.status_code == 200
    assert plain.json()["predictions"] == as_json.json()["predictions"] == as_file.json()["predictions"]


def test_json_that_is_not_said_to_be_json_is_not_taken_for_a_text(client):
    headers = {"content-type": "application/x-www-form-urlencoded"}

    response = client.post("/predict", content=b'{"text": "as curl -d sends it"}', headers=headers)

    assert response.status_code == 400
    assert refusal(response)["message"] == (
        "Content-Type: expected application/json for a body that is JSON, received application/x-www-form-urlencoded. "
        "Add -H 'Content-Type: application/json'."
    )
    assert client.post("/predict", content=b'{"text", she said', headers=headers).status_code == 200


@pytest.mark.parametrize("ascii_only", [False, True])
def test_json_may_be_escaped_or_not(client, ascii_only):
    body = json.dumps({"text": "👍🏽 größer"}, ensure_ascii=ascii_only).encode()
    headers = {"content-type": "application/json; charset=utf-8"}

    answer = client.post("/predict", content=body, headers=headers).json()

    assert answer["predictions"] == client.post("/predict", json={"text": "👍🏽 größer"}).json()["predictions"]


def test_a_batch_is_answered_in_the_order_of_its_texts(client):
    texts = ["a", "The quick brown fox " * 20, "", "größer", "b", "her name"]

    answer = client.post("/predict/batch", json={"texts": texts}).json()

    alone = [client.post("/predict", json={"text": text}).json()["predictions"][0] for text in texts]
    assert [row["label"] for row in answer["predictions"]] == [row["label"] for row in alone]
    for row, other in zip(answer["predictions"], alone, strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    PredictAnswer.model_validate(answer)


def test_files_of_texts_are_answered_as_a_batch(client):
    files = [("files", ("a.txt", b"a")), ("files", ("b.txt", "größer".encode()))]

    answer = client.post("/predict/batch", files=files).json()

    texts = client.post("/predict/batch", json={"texts": ["a", "größer"]}).json()
    assert answer["predictions"] == texts["predictions"]


def test_a_bad_row_of_a_batch_fails_alone(client):
    body = b'{"texts": ["good", null, 7, ["nested"], {"text": "a"}, true, "\\ud800", "%s", ""]}' % (b"x" * 1001)

    response = client.post("/predict/batch", content=body, headers={"content-type": "application/json"})

    rows = response.json()["predictions"]
    assert response.status_code == 200
    assert [index for index, row in enumerate(rows) if "label" in row] == [0, 8]
    errors = [(row["error"]["code"], row["error"]["message"]) for row in rows if "error" in row]
    assert errors == [
        ("invalid_request", "texts[1]: expected a string, received null."),
        ("invalid_request", "texts[2]: expected a string, received a number."),
        ("invalid_request", "texts[3]: expected a string, received an array."),
        ("invalid_request", "texts[4]: expected a string, received an object."),
        ("invalid_request", "texts[5]: expected a string, received true or false."),
        (
            "undecodable_text",
            "text: expected Unicode characters, received a lone surrogate U+D800 at character 0.",
        ),
        ("too_large", "text: expected at most 1000 characters, received 1001."),
    ]
    PredictAnswer.model_validate(response.json())


def test_a_batch_in_which_every_row_fails_is_400(client):
    response = client.post("/predict/batch", json={"texts": [None, 1, "x" * 1001]})

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "all_rows_failed"
    assert len(response.json()["predictions"]) == 3


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/predict", b"", "body: expected JSON; Expecting value"),
        ("/predict", b'{"text": ', "body: expected JSON; Expecting value"),
        ("/predict", b'{"text": "\xff"}', "body: expected JSON in UTF-8; byte 10 is not"),
        ("/predict", '{"text": "a"}'.encode("utf-16"), "body: expected JSON in UTF-8; byte 0 is not"),
        ("/predict", b"[" * 100_000, "body: expected JSON; "),
        ("/predict", b"1" * 5000, "body: expected JSON; "),
        ("/predict", b'"a text"', "body: expected a JSON object, received a string"),
        ("/predict", b'[{"text": "a"}]', "body: expected a JSON object, received an array"),
        ("/predict", b"null", "body: expected a JSON object, received null"),
        ("/predict", b"{}", "body: expected the key 'text', received none"),
        ("/predict", b'{"txet": "a"}', "body: unknown key 'txet'. Did you mean 'text'?"),
        ("/predict", b'{"text": "a", "lang": "en"}', "body: unknown key 'lang'. Known: text, routing_key."),
        ("/predict", b'{"texts": ["a"]}', "body: unknown key 'texts'. /predict/batch takes it."),
        ("/predict/batch", b'{"text": "a"}', "body: unknown key 'text'. /predict takes it."),
        ("/predict", b'{"text": null}', "text: expected a string, received null"),
        ("/predict", b'{"text": 7}', "text: expected a string, received a number"),
        ("/predict", b'{"text": NaN}', "text: expected a string, received a number"),
        ("/predict", b'{"text": [["a"]]}', "text: expected a string, received an array"),
        ("/predict", b'{"text": {"text": "a"}}', "text: expected a string, received an object"),
        ("/predict", b'{"text": "\\ud83d"}', "received a lone surrogate U+D83D at character 0"),
        ("/predict/batch", b'{"texts": []}', "texts: expected one text or more, received an empty array"),
        ("/predict/batch", b'{"texts": null}', "texts: expected an array of strings, received null"),
        ("/predict/batch", b'{"texts": "a"}', "texts: expected an array of strings, received a string"),
    ],
)
def test_json_that_is_no_text_is_400(client, path, body, sentence):
    response = client.post(path, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert sentence in refusal(response)["message"]
    assert client.post("/predict", json={"text": TEXT}).status_code == 200


@pytest.mark.parametrize("as_json", [False, True])
def test_a_text_of_ten_megabytes_is_413(client, as_json):
    text = "x" * 10_000_000

    response = client.post("/predict", **({"json": {"text": text}} if as_json else {"content": text.encode()}))

    assert response.status_code == 413
    assert refusal(response)["message"] == "text: expected at most 1000 characters, received 10000000."
    assert refusal(response)["details"] == {"expected_chars": 1000, "received_chars": 10_000_000}


def test_too_many_texts_are_413(client):
    response = client.post("/predict/batch", json={"texts": ["a"] * (MAX_INPUTS + 1)})

    assert response.status_code == 413
    assert refusal(response)["message"] == f"texts: expected at most {MAX_INPUTS} texts, received {MAX_INPUTS + 1}."
    answered = client.post("/predict/batch", json={"texts": ["a"] * MAX_INPUTS})
    assert len(answered.json()["predictions"]) == MAX_INPUTS


@pytest.mark.parametrize(("path", "key"), [("/predict", "text"), ("/predict/batch", "texts")])
def test_an_image_for_a_model_of_texts_is_400_that_says_what_it_takes(client, path, key):
    response = client.post(path, content=RED, headers={"content-type": "image/png"})

    assert response.status_code == 400
    assert refusal(response)["message"] == (
        f"Content-Type: model 'moods' takes texts, expected application/json with the key '{key}'; received image/png."
    )


@pytest.mark.parametrize("as_form", [False, True])
def test_an_image_that_is_not_said_to_be_one_is_400_too(client, as_form):
    response = client.post("/predict", **({"files": {"file": RED}} if as_form else {"content": RED}))

    assert response.status_code == 400
    assert refusal(response)["code"] == "undecodable_text"
    assert "expected UTF-8 text, which this model takes; byte 0 is not" in refusal(response)["message"]


@pytest.mark.parametrize(
    ("path", "headers", "sentence"),
    [
        ("/predict/batch", {"content-type": "text/plain"}, "expected application/json with the key 'texts', received"),
        ("/predict/batch", {}, "received 'none'. /predict takes one text as the body"),
        ("/predict", {"content-type": "text/plain; charset=latin1"}, "expected charset UTF-8, received 'latin1'"),
        ("/predict", {"content-encoding": "gzip"}, "Content-Encoding: expected none, received 'gzip'"),
    ],
)
def test_a_media_type_that_the_path_does_not_take_is_415(client, path, headers, sentence):
    response = client.post(path, content=b"a", headers=headers)

    assert response.status_code == 415
    assert sentence in refusal(response)["message"]


def test_several_labels_are_answered(multi_label_bundle):
    with serving(app_of(multi_label_bundle)) as server:
        answer = server.client.post("/predict/batch", json={"texts": ["", TEXT, "her name"]}).json()

    for row in answer["predictions"]:
        assert list(row) == ["labels", "probabilities"]
        chosen = {each["label"]: each["score"] for each in row["labels"]}
        assert chosen == {label: score for label, score in row["probabilities"].items() if score >= 0.5}
        assert list(row["probabilities"].values()) == sorted(row["probabilities"].values(), reverse=True)
    assert any(row["labels"] for row in answer["predictions"])
    PredictAnswer.model_validate(answer)


def test_entities_stand_where_the_answer_says(tags_client):
    text = "😀 " + "Ana was in São Paulo, she says. " * 12

    answer = tags_client.post("/predict", json={"text": text}).json()

    (prediction,) = answer["predictions"]
    assert prediction["entities"]
    # Of the whole text, which is longer than a row.
    assert prediction["entities"][-1]["end"] > len(text) - 40
    for entity in prediction["entities"]:
        assert list(entity) == ["text", "label", "start", "end", "score"]
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert entity["label"] in ("LOC", "PER")
        assert 0 < entity["score"] <= 1
        assert math.isfinite(entity["score"])
    PredictAnswer.model_validate(answer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["text", "texts", "x"]), values),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    body=json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"text": value}).encode())
    | json_values.map(lambda value: json.dumps({"texts": value}).encode())
    | st.binary(max_size=40),
    path=st.sampled_from(["/predict", "/predict/batch"]),
    media=st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=b"]),
)
def test_no_body_fails_the_service(tags_client, body, path, media):
    response = tags_client.post(path, content=body, headers={"content-type": media})

    assert response.status_code in (200, 400, 415)
    if response.status_code == 200:
        PredictAnswer.model_validate(response.json())
    else:
        assert response.json()["error"]["code"] in (
            "invalid_request", "undecodable_text", "all_rows_failed", "unsupported_media_type",
        )  # fmt: skip


def test_requests_side_by_side_get_their_own_answers(client):
    texts = [f"{CORPUS[index % 12][: 5 * index]} {index}" for index in range(48)]
    alone = [client.post("/predict", json={"text": text}).json()["predictions"][0] for text in texts]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: client.post("/predict", json={"text": text}).json(), texts))

    for answer, expected in zip(answers, alone, strict=True):
        assert answer["predictions"][0]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_the_start_page_shows_how_to_send_a_text(client):
    start = client.get("/").json()

    assert start["models"][0]["task"] == "text_classification"
    assert start["example"].startswith("curl -H 'Content-Type: application/json' -d '{\"text\":")
