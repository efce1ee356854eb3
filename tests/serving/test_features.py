"""`features=true`: the vector before the model's head beside each answer."""

import numpy as np
import pytest

from tests.serving.bundles import BLUE, GREEN, RED, make_bundle
from tests.serving.servers import app_of, serving
from tfpipe.decode import decode_image


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("bundles") / "colours", features=True)
    with serving(app_of(folder, max_batch_size=2)) as server:
        yield server.client


def means_of(content):
    return decode_image(content).mean(axis=(0, 1)) / 255


def test_each_row_of_a_batch_has_its_own_features(client):
    contents = [RED, b"junk", GREEN, BLUE, RED]
    files = [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]

    rows = client.post("/predict/batch?features=true", files=files).json()["predictions"]

    assert "error" in rows[1]
    for row, content in zip(rows, contents, strict=True):
        if content != b"junk":
            np.testing.assert_allclose(row["features"], means_of(content), atol=1e-5)


@pytest.mark.parametrize("query", ["", "?features=false"])
def test_without_being_asked_for_they_are_not_there(client, query):
    (row,) = client.post(f"/predict{query}", content=RED).json()["predictions"]

    assert row["label"] == "red"
    assert "features" not in row


def test_a_bundle_without_them_says_what_to_do(tmp_path):
    with serving(app_of(make_bundle(tmp_path / "colours"))) as server:
        answer = server.client.post("/predict?features=true", content=RED)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("gives no features. Convert it with conversion.features=true.")
