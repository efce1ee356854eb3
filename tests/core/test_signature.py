import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.errors import SignatureError
from tfpipe.core.signature import TensorSpec

specs = st.builds(
    TensorSpec,
    name=st.text(),
    dtype=st.sampled_from(["uint8", "float32", "int64"]),
    shape=st.lists(st.one_of(st.integers(0, 5), st.text(min_size=1)), max_size=4).map(tuple),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(specs)
def test_a_spec_comes_back_from_its_dictionary(spec):
    assert TensorSpec.from_dict(spec.to_dict()) == spec


@settings(max_examples=100, deadline=None, derandomize=True)
@given(spec=specs, length=st.integers(0, 5))
def test_named_axes_take_any_length(spec, length):
    shape = [length if isinstance(expected, str) else expected for expected in spec.shape]

    spec.check(np.zeros(shape, spec.dtype))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 3), "float64"), ((5, 4), "float32"), ((3,), "float32"), ((1, 5, 3), "float32")]
)
def test_another_shape_or_dtype_is_refused(shape, dtype):
    spec = TensorSpec("image", "float32", ("batch", 3))

    with pytest.raises(SignatureError) as caught:
        spec.check(np.zeros(shape, dtype))

    assert str(caught.value) == (
        f"input 'image': expected float32 of shape (batch, 3), received {dtype} of shape {shape}."
    )
