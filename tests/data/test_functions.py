import sys
import textwrap

import numpy as np
import pytest

from tfpipe.config import parse_config
from tfpipe.core.errors import DataError
from tfpipe.data.sources import open_source, to_pixels
from tfpipe.data.splits import open_splits

SOURCE = """
    import numpy as np

    class Shapes:
        labels = ["round", "square"]

        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def read(self, index):
            return np.full((4, 5, 3), index, np.uint8), ["square", 0][index % 2]

    def shapes(split, config):
        return {"train": Shapes(10), "validation": Shapes(4)}.get(split)

    def shapes_alone(split, config):
        return Shapes(10) if split == "train" else None

    def nothing(split, config):
        return None

    def a_list(split, config):
        return [1, 2]

    def other_labels(split, config):
        shapes = Shapes(4)
        shapes.labels = ["round"]
        return shapes

    not_a_function = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module into the current folder, which nothing else has made importable; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    # A name of its own: modules stay imported.
    name = f"user_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    yield name
    sys.modules.pop(name, None)


def splits_of(path, **data):
    return open_splits(parse_config({"data": {"path": path, **data}}, where="test"))


def test_a_users_source_needs_three_parts(module):
    source = open_source(f"{module}:shapes")

    assert source.labels == ("round", "square")
    assert len(source) == 10
    assert [source.label(i) for i in range(4)] == [1, 0, 1, 0]
    assert source.identifier(3) == "000003"
    np.testing.assert_array_equal(to_pixels(source.read(3)[0]), np.full((4, 5, 3), 3))


def test_a_function_gives_its_own_validation_data(module):
    splits = splits_of(f"{module}:shapes")

    assert (len(splits.train), len(splits.validation), splits.test) == (10, 4, None)


def test_a_function_without_validation_data_has_its_training_data_split(module):
    splits = splits_of(f"{module}:shapes_alone", validation_fraction=0.4)

    assert (len(splits.train), len(splits.validation)) == (6, 4)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", r"expected .*:nothing\('train'\) to return data, received None"),
        ("a_list", "expected a source .* or None, received list, which lacks labels, read"),
        ("other_labels", r"expected the label of sample 0 to be one of \['round'\] .* received 'square'"),
        ("not_a_function", "expected a function 'not_a_function' in module"),
        ("absent", "expected a function 'absent' in module"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(module, name, sentence):
    with pytest.raises(DataError, match=sentence):
        splits_of(f"{module}:{name}")


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"expected an importable module in 'no_such\.module:fn', found no 'no_such'"):
        open_source("no_such.module:fn")


def test_an_import_that_fails_inside_the_users_module_is_shown_as_it_is(module, tmp_path):
    (tmp_path / "needs_more.py").write_text("import not_installed_at_all\n")

    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        open_source("needs_more:fn")


DATASETS = """
    import tensorflow as tf

    images = tf.cast(tf.reshape(tf.range(6 * 2 * 3 * 3), (6, 2, 3, 3)), tf.uint8)
    labels = tf.constant([10, 9, 10, 9, 10, 9], tf.int64)
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))

    def plain(split, config):
        return pairs if split == "train" else None

    def grey(split, config):
        return pairs.map(lambda image, label: (image[..., :1], label))

    def named(split, config):
        dataset = pairs.map(lambda image, label: (image, label - 9))
        dataset.class_names = ["cat", "dog"]
        return dataset

    def batched(split, config):
        return pairs.batch(2)

    def floats(split, config):
        return pairs.map(lambda image, label: (tf.cast(image, tf.float32) / 255, label))

    def one_hot(split, config):
        return pairs.map(lambda image, label: (image, tf.one_hot(label, 11)))

    def endless(split, config):
        return pairs.repeat()

    def images_only(split, config):
        return pairs.map(lambda image, label: image)

    def empty(split, config):
        return pairs.take(0)
"""


@pytest.fixture
def datasets(module, tmp_path):
    name = f"{module}_datasets"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(DATASETS))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.tensorflow
def test_a_dataset_is_held_in_memory_with_classes_in_order_of_number(datasets):
    source = open_source(f"{datasets}:plain")

    assert source.labels == ("9", "10")
    assert [source.label(i) for i in range(6)] == [1, 0, 1, 0, 1, 0]
    np.testing.assert_array_equal(source.read(1)[0], np.arange(18, 36, dtype=np.uint8).reshape(2, 3, 3))


@pytest.mark.tensorflow
def test_class_names_of_a_dataset_are_kept(datasets):
    source = open_source(f"{datasets}:named")

    assert source.labels == ("cat", "dog")
    assert [source.label(i) for i in range(2)] == [1, 0]


@pytest.mark.tensorflow
def test_grey_images_of_a_dataset_become_rgb(datasets):
    assert open_source(f"{datasets}:grey").read(0)[0].shape == (2, 3, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("batched", r"expected unbatched uint8 images .* received uint8 of shape \(2, 2, 3, 3\). Use .unbatch"),
        ("floats", r"received float32 of shape \(2, 3, 3\).* tf.cast"),
        ("one_hot", "expected one integer label, received float32"),
        ("endless", "expected a finite dataset"),
        ("images_only", r"expected elements \(image, label\), received ndarray"),
        ("empty", "received an empty dataset"),
    ],
)
def test_a_dataset_of_something_else_is_refused(datasets, name, sentence):
    with pytest.raises(DataError, match=sentence):
        open_source(f"{datasets}:{name}")
