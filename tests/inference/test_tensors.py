"""Models of named tensors without TensorFlow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.bundles import make_bundle
from tests.serving.tensor_bundles import make_tensor_bundle, reference
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import BundleError, SignatureError
from tfpipe.core.parity import BOUNDS
from tfpipe.inference.opening import open_inference
from tfpipe.inference.tensors import open_tensors, tensor_hop


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(make_tensor_bundle(tmp_path_factory.mktemp("bundles") / "sums"))


@pytest.fixture(scope="module")
def model(bundle):
    return open_tensors(bundle)


@given(batch=st.integers(1, 5), count=st.integers(1, 5), seed=st.integers(0, 9))
def test_it_answers_by_name_for_any_length_of_a_named_axis(model, batch, count, seed):
    random = np.random.default_rng(seed)
    numbers = random.random((batch, count), np.float32)
    factor = random.integers(0, 9, batch).astype(np.int32)

    answers = model.run({"factor": factor, "numbers": numbers})

    expected = reference(numbers, factor)
    assert list(answers) == ["sum", "parity"]
    np.testing.assert_allclose(answers["sum"], expected["sum"], rtol=1e-5)
    np.testing.assert_array_equal(answers["parity"], expected["parity"])


def test_another_name_dtype_or_shape_is_refused(model):
    with pytest.raises(SignatureError, match="inputs: expected numbers, factor; received numbers"):
        model.run({"numbers": np.zeros((1, 2), np.float32)})


def test_golden_samples_agree(model):
    hop = model.replay_golden()

    assert (hop.name, hop.problem, hop.num_files) == ("fp32", "", 1)


def test_golden_samples_that_do_not_agree_are_told(tmp_path):
    model = open_tensors(open_bundle(make_tensor_bundle(tmp_path / "b", golden_offset=0.5)))

    assert "expected tensors within" in model.replay_golden().problem


def test_whole_numbers_must_be_equal_where_the_form_is_exact():
    answers, references = [{"k": np.array([1, 2])}], [{"k": np.array([1, 3])}]

    exact, rounded = (
        tensor_hop("fp32", "x -> y", answers, references, BOUNDS["fp32"], is_exact=is_exact)
        for is_exact in (True, False)
    )

    assert exact.problem == "x -> y: expected output 'k' equal to Keras's, received other numbers."
    assert rounded.problem == ""


def test_a_bundle_of_another_task_is_refused(tmp_path, bundle):
    with pytest.raises(BundleError, match="expected task 'tensor', received 'image_classification'"):
        open_tensors(open_bundle(make_bundle(tmp_path / "images")))

    with pytest.raises(BundleError, match=r"received 'tensor'\. Open it with tfpipe\.inference\.tensors\."):
        open_inference(bundle)
