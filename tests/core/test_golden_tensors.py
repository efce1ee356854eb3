import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfpipe.core.bundle import Bundle, Manifest
from tfpipe.core.errors import BundleError, SignatureError
from tfpipe.core.golden_tensors import (
    GoldenTensors,
    check_tensors,
    read_golden_tensors,
    scaled,
    write_golden_tensors,
)
from tfpipe.core.signature import TensorSpec

WIND, MONTH = TensorSpec("wind", "float32", ("batch", 4)), TensorSpec("month", "int32", ("batch",))
numbers = arrays.arrays(
    st.sampled_from([np.float32, np.int32, np.uint8, np.bool_]), arrays.array_shapes(min_dims=0, max_side=3)
)
tensors = st.dictionaries(st.from_regex(r"[a-z_]\w{0,9}", fullmatch=True), numbers, min_size=1, max_size=3)


def bundle_of(folder, files):
    manifest = Manifest("m", None, "tensor", (), (), (), (), {}, "fp32", {}, {}, "", dict.fromkeys(files, ""))
    return Bundle(folder, manifest, "")


@given(samples=st.lists(st.builds(GoldenTensors, tensors, tensors), min_size=1, max_size=3))
def test_golden_samples_are_read_as_they_were_written(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")

    write_golden_tensors(folder, samples)
    read = read_golden_tensors(bundle_of(folder, [f"golden/{path.name}" for path in (folder / "golden").iterdir()]))

    assert len(read) == len(samples)
    for one, other in zip(read, samples, strict=True):
        for received, expected in ((one.inputs, other.inputs), (one.outputs, other.outputs)):
            assert received.keys() == expected.keys()
            for name, array in expected.items():
                assert (received[name].dtype, received[name].shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(received[name], array)


def test_a_bundle_without_golden_samples_is_refused(tmp_path):
    with pytest.raises(BundleError, match="expected golden samples"):
        read_golden_tensors(bundle_of(tmp_path, []))


def test_pickled_objects_are_never_read(tmp_path):
    (tmp_path / "golden").mkdir()
    for name in ("0000.npz", "0000.answers.npz"):
        np.savez(tmp_path / "golden" / name, x=np.array([print], dtype=object))

    with pytest.raises(BundleError, match=r"expected an \.npz file of arrays"):
        read_golden_tensors(bundle_of(tmp_path, ["golden/0000.npz", "golden/0000.answers.npz"]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"wind": np.zeros((2, 4), np.float32)}, r"inputs: expected wind, month; received wind\."),
        ({"wind": np.zeros((2, 4)), "month": np.zeros(2, np.int32)}, "'wind': expected float32 of shape"),
        (
            {"wind": np.zeros((2, 4), np.float32), "month": np.zeros(3, np.int32)},
            "'month': expected 2 along 'batch', as input 'wind' has, received 3",
        ),
    ],
)
def test_arrays_of_another_form_are_refused(given, sentence):
    with pytest.raises(SignatureError, match=sentence):
        check_tensors((WIND, MONTH), given)


@given(factor=st.floats(1.0, 1e6))
def test_differences_are_told_against_the_largest_value(factor):
    reference = np.array([0.5, -1.0]) * factor

    ((one, other),) = scaled({"y": reference + 0.01 * factor}, {"y": reference}).values()

    np.testing.assert_allclose(np.abs(one - other), 0.01, rtol=1e-6)


def test_probabilities_and_whole_numbers_stay_as_they_are():
    references = {"p": np.array([0.1, 0.9]), "k": np.array([700, 3])}

    pairs = scaled(references, references)

    assert pairs["p"][0].tolist() == [0.1, 0.9]
    assert pairs["k"][0].tolist() == [700.0, 3.0]
