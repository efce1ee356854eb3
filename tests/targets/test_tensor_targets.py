"""Bundles of named tensors, exported; Triton is asked in test_triton.py."""

import mlflow
import numpy as np
import pytest

from tests.targets.tensor_bundles import answers, make_tensor_bundle, request
from tests.targets.test_onnx_files import run_example
from tfpipe.core.errors import GateError
from tfpipe.targets.export import export


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tensor_bundle(tmp_path_factory.mktemp("tensors") / "bundle")


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory):
    return export(bundle, "mlflow", tmp_path_factory.mktemp("mlflow") / "rain").folder


@pytest.mark.parametrize("target", ["onnx", "mlflow", "triton"])
def test_a_model_that_answers_otherwise_than_keras_is_not_exported(tmp_path, target):
    bundle = make_tensor_bundle(tmp_path / "bundle", golden_offset=0.5)

    with pytest.raises(GateError, match="largest difference"):
        export(bundle, target, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_the_readmes_example_of_plain_onnx_runs(bundle, tmp_path):
    folder = export(bundle, "onnx", tmp_path / "out").folder

    lines = [line.split() for line in run_example(folder).splitlines()]

    assert [(line[0], float(line[-1]) < 1e-5) for line in lines] == [("rain", True), ("wettest", True)]
    assert not (folder / "labels.txt").exists()


@pytest.mark.slow
def test_an_mlflow_model_takes_and_gives_arrays_by_name(model):
    given = request(5, seed=3)

    answer = mlflow.pyfunc.load_model(str(model)).predict(given)

    np.testing.assert_allclose(answer["rain"], answers(given)["rain"], rtol=1e-5)
    np.testing.assert_array_equal(answer["wettest"], answers(given)["wettest"])
    with pytest.raises(mlflow.exceptions.MlflowException, match="wind"):
        mlflow.pyfunc.load_model(str(model)).predict({"month": given["month"]})


@pytest.mark.slow
def test_the_readmes_example_of_mlflow_runs(model):
    assert run_example(model) == ""
