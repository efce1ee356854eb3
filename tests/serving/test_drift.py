"""What a version is asked, beside what it was trained on."""

import re
import shutil

import numpy as np
import pytest

from serving.drift import DriftWatch, open_drift
from serving.engine import Row
from serving.keys_command import create_key
from tests.serving.clocks import FakeClock
from tests.serving.drifting import WORDS, digits, digits_bundle, moods_bundle, png, texts
from tests.serving.servers import app_of, serving
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import BundleError
from tfpipe.core.observed import Answers
from tfpipe.core.statistics import Statistics, of_categories, of_numbers

ROWS = 20
LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    return digits_bundle(tmp_path_factory.mktemp("drift") / "digits")


@pytest.fixture(scope="module")
def of_moods(tmp_path_factory, tokenizer):
    return moods_bundle(tmp_path_factory.mktemp("drift") / "moods", tokenizer)


def statistics():
    confidence = of_numbers("confidence", "predictions", np.linspace(0.5, 1, 100))
    length = of_numbers("characters", "inputs", np.arange(10))
    others = [of_numbers(name, "inputs", np.zeros(9)) for name in ("tokens", "unknown_ratio")]
    label, _ = of_categories("label", "predictions", LABELS, [50, 50])
    return Statistics("", "", (length, *others, confidence, label), unknown_id=1)


def watch_of(clock, rows=ROWS):
    return DriftWatch(statistics(), LABELS, Answers(), rows=rows, clock=clock)


def rows_of(watch):
    return {reading.feature.name: reading.rows for reading in watch.readings()}


def answers_of(*sure):
    return [Row(np.array([1 - one, one], np.float32)) for one in sure]


# The window.


def test_a_window_fills_as_rows_come_and_then_takes_a_share():
    clock = FakeClock()
    watch = watch_of(clock)

    for _ in range(1000):
        watch.received("text", [np.array([2, 3])])
        clock.now_s += 0.001

    assert rows_of(watch)["characters"] == ROWS
    window = watch.readings()[0]
    for _ in range(1000):
        watch.received("a longer text", [np.array([2, 3])])
        clock.now_s += 0.6
    # 600 s renew all of it.
    assert window.counts[-1] == 0
    assert watch.readings()[0].counts[-1] == ROWS


def test_what_is_older_than_an_hour_is_forgotten():
    clock = FakeClock()
    watch = watch_of(clock)
    watch.answered(answers_of(0.9, 0.8))

    clock.now_s += 3599
    assert rows_of(watch)["confidence"] == 2
    clock.now_s += 2

    assert rows_of(watch)["confidence"] == 0
    assert [reading.psi for reading in watch.readings()] == [0.0] * 5


def test_answers_are_counted_by_label_and_how_sure_they_are():
    watch = watch_of(FakeClock())

    watch.answered(answers_of(0.9, 0.8, 0.2))

    found = {reading.feature.name: reading for reading in watch.readings()}
    assert found["label"].counts.tolist() == [1, 2, 0]
    assert found["confidence"].mean == pytest.approx((0.9 + 0.8 + 0.8) / 3)
    assert found["label"].ks is None


def test_odd_inputs_are_counted_whatever_the_bundle_says():
    watch = DriftWatch(None, LABELS, Answers(), rows=ROWS, row_shape=(8, 8, 3))

    watch.received("", [np.array([2, 3])])
    watch.received(" \n", [np.array([2, 3])])
    watch.received(np.zeros((4, 4, 3), np.uint8), [])
    watch.received(np.zeros((4, 40, 3), np.uint8), [])
    watch.received(np.zeros((8, 8, 3), np.uint8), [])

    assert watch.odd() == {"empty_text": 2, "small_image": 1, "stretched_image": 1}
    assert watch.readings() == []


def test_texts_of_unknown_words_are_odd():
    watch = watch_of(FakeClock())

    watch.received("abc", [np.array([2, 1, 7, 3])])
    watch.received("abc", [np.array([2, 1, 7, 8, 3])])

    assert watch.odd() == {"unknown_text": 1}


def test_zero_rows_watch_nothing(of_digits):
    assert open_drift(open_bundle(of_digits), rows=0) is None


def test_statistics_that_cannot_be_read_are_refused(of_digits, tmp_path):
    folder = shutil.copytree(of_digits, tmp_path / "copy")
    bundle = open_bundle(folder)
    (folder / "statistics.json").write_text("[]")

    with pytest.raises(BundleError, match=r"statistics\.json: expected statistics of training data"):
        open_drift(bundle, rows=ROWS)


# A service.


def ask_images(client, images):
    for start in range(0, len(images), 75):
        files = [("files", (f"{place}.png", png(one))) for place, one in enumerate(images[start : start + 75])]
        client.post("/predict/batch", files=files).raise_for_status()


def found(client):
    (model,) = client.get("/drift").raise_for_status().json()["models"]
    return model | {"features": {one["name"]: one for one in model["features"]}}


def drifted(client):
    return {name for name, one in found(client)["features"].items() if one["verdict"] == "drifted"}


def metrics(client, name):
    lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return {dict(re.findall(r'(\w+)="([^"]*)"', labels)).get("feature", ""): float(value) for labels, value in lines}


def test_digits_like_those_of_training_are_steady(of_digits):
    with serving(app_of(of_digits)) as server:
        ask_images(server.client, digits(600, 900))

        assert drifted(server.client) == set()
        assert found(server.client)["inputs_from"] == "300 training samples"
        features = found(server.client)["features"]
        assert {one["rows"] for one in features.values()} == {300}
        assert {one["verdict"] for one in features.values()} <= {"steady", "moved"}
        assert metrics(server.client, "tfpipe_drift_window_rows") == {"": 300.0}
        indices, limits = (metrics(server.client, f"tfpipe_drift_psi{end}") for end in ("", "_limit"))
        assert indices.keys() == limits.keys() == features.keys()
        assert all(indices[name] < limits[name] for name in indices)
        assert metrics(server.client, "tfpipe_drift_ks").keys() == features.keys() - {"label"}


def test_inverted_digits_have_drifted(of_digits):
    with serving(app_of(of_digits)) as server:
        ask_images(server.client, digits(600, 900, inverted=True))

        assert {"brightness", "red_mean", "confidence"} <= drifted(server.client)
        # They are as large as the others.
        assert not {"width", "height", "aspect_ratio"} & drifted(server.client)
        assert metrics(server.client, "tfpipe_drift_psi")["brightness"] > 2
        assert metrics(server.client, "tfpipe_drift_ks")["brightness"] == 1.0


def test_texts_like_those_of_training_are_steady_and_strange_ones_have_drifted(of_moods):
    def ask(client, some):
        client.post("/predict/batch", json={"texts": some}).raise_for_status()

    with serving(app_of(of_moods)) as server:
        ask(server.client, texts(250, seed=3))
        assert drifted(server.client) == set()

    with serving(app_of(of_moods)) as server:
        ask(server.client, texts(250, WORDS["strange"], seed=3))
        assert {"vocabulary", "characters"} <= drifted(server.client)
        said = found(server.client)["features"]["vocabulary"]
        assert said["actual"][-1] > said["expected"][-1]
        assert said["bins"][-1] == "(other)"


def test_too_few_rows_say_nothing(of_digits):
    with serving(app_of(of_digits)) as server:
        ask_images(server.client, digits(600, 650, inverted=True))

        assert {one["verdict"] for one in found(server.client)["features"].values()} == {"too few rows"}
        assert metrics(server.client, "tfpipe_drift_psi") == {}
        assert metrics(server.client, "tfpipe_drift_window_rows") == {"": 50.0}


def test_a_bundle_without_statistics_is_served_and_says_nothing_of_drift(bundle):
    with serving(app_of(bundle)) as server:
        ask_images(server.client, digits(600, 602))

        assert found(server.client) == {
            "model": "colours", "version": "3", "inputs_from": "", "predictions_from": "", "odd_inputs": {},
            "features": {},
        }  # fmt: skip
        assert "tfpipe_drift" not in server.client.get("/metrics").text


def test_nothing_is_watched_where_the_window_is_zero(of_digits):
    with serving(app_of(of_digits, drift_window_rows=0)) as server:
        ask_images(server.client, digits(600, 602))

        assert server.client.get("/drift").json() == {"models": []}


def test_rows_that_their_clients_made_count_as_answers_alone(of_digits):
    with serving(app_of(of_digits)) as server:
        row = np.zeros((1, 8, 8, 3), np.float32).tolist()
        body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8, 8, 3], "data": row}]}
        for _ in range(3):
            server.client.post("/v2/models/digits/infer", json=body).raise_for_status()

        assert {(one["of"], one["rows"]) for one in found(server.client)["features"].values()} == {
            ("inputs", 0),
            ("predictions", 3),
        }


def test_who_may_not_predict_may_not_ask_for_drift(of_digits, tmp_path):
    keys = tmp_path / "keys.yaml"
    create_key(keys, {"name": "mobile", "scopes": ["predict"]})
    with serving(app_of(of_digits, api_keys_file=keys)) as server:
        assert server.client.get("/drift").status_code == 401
