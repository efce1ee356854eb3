"""A bundle of named tensors in the service: proved and described, and /predict says what it takes."""

import pytest

from serving.app import engines_of_settings
from serving.settings import ServingSettings
from tests.serving.servers import app_of, serving
from tests.serving.tensor_bundles import make_tensor_bundle
from tfpipe.core.errors import GateError


def test_it_is_loaded_and_refuses_files_with_what_it_takes(tmp_path):
    with serving(app_of(make_tensor_bundle(tmp_path / "sums"))) as server:
        (described,) = server.client.get("/health").json()["models"]
        answer = server.client.post("/predict", content=b"a picture")
        several = server.client.post("/predict/batch", json={"texts": ["a"]})
        page = server.client.get("/")

    assert (described["name"], described["task"], described["precision"]) == ("sums", "tensor", "fp32")
    assert (answer.status_code, several.status_code, page.status_code) == (400, 400, 200)
    error = answer.json()["error"]
    assert error["message"].startswith(
        "/predict: model 'sums' takes named tensors, which /predict cannot carry: numbers float32 (batch, count); "
        "factor int32 (batch)."
    )
    assert error["details"]["inputs"][0] == {"name": "numbers", "dtype": "float32", "shape": ["batch", "count"]}


def test_golden_samples_that_do_not_agree_are_refused(tmp_path):
    settings = ServingSettings(model=str(make_tensor_bundle(tmp_path / "sums", golden_offset=0.5)))

    with pytest.raises(GateError, match="golden samples of 'sums', fp32 on cpu"):
        next(engines_of_settings(settings))
