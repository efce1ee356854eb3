import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image_files import write_class_folders
from tests.samples import ArraySource
from tfpipe.config import parse_config
from tfpipe.core.errors import DataError
from tfpipe.data.splits import class_counts, fingerprint, open_splits, split_by_class


def open_data(path, *, seed=0, **data):
    return open_splits(parse_config({"data": {"path": str(path), **data}, "training": {"seed": seed}}, where="test"))


def identifiers(source):
    return [source.identifier(i) for i in range(len(source))]


class NamedSamples:
    """Samples told by (identifier, class) alone."""

    def __init__(self, samples, labels=("a", "b")):
        self.labels, self.samples = labels, samples

    def __len__(self):
        return len(self.samples)

    def identifier(self, index):
        return self.samples[index][0]

    def label(self, index):
        return self.samples[index][1]

    def stamp(self, index):
        return ""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_split_takes_its_share_of_every_class_and_loses_nothing(counts, fraction, seed):
    samples = [(f"{label}/{i}", label) for label, count in enumerate(counts) for i in range(count)]
    source = NamedSamples(samples, tuple(map(str, range(len(counts)))))

    kept, held_out = split_by_class(source, fraction, seed)

    assert sorted([*kept, *held_out]) == list(range(len(samples)))
    assert list(kept) == sorted(kept)
    held_out_counts = np.bincount([source.label(i) for i in held_out], minlength=len(counts))
    for count, taken in zip(counts, held_out_counts, strict=True):
        assert 1 <= taken <= count - 1
        assert abs(taken - fraction * count) <= 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_a_split_depends_on_identifiers_not_on_their_order(seed, order):
    samples = [(f"sample {i}", i % 2) for i in range(40)]
    shuffled = order.sample(samples, len(samples))

    first = {samples[i] for i in split_by_class(NamedSamples(samples), 0.25, seed)[1]}
    second = {shuffled[i] for i in split_by_class(NamedSamples(shuffled), 0.25, seed)[1]}

    assert first == second


def test_another_seed_gives_another_split(tmp_path):
    write_class_folders(tmp_path, {"cat": 20, "dog": 20})

    assert identifiers(open_data(tmp_path).validation) == identifiers(open_data(tmp_path).validation)
    assert identifiers(open_data(tmp_path).validation) != identifiers(open_data(tmp_path, seed=1).validation)


def test_samples_added_later_leave_most_others_on_their_side():
    before = [(f"sample {i}", i % 2) for i in range(200)]
    after = before + [(f"later {i}", i % 2) for i in range(20)]

    old = {before[i] for i in split_by_class(NamedSamples(before), 0.2, 0)[1]}
    new = {after[i] for i in split_by_class(NamedSamples(after), 0.2, 0)[1]}

    assert len(old - new) <= 8


def test_rows_that_name_one_file_stay_on_one_side():
    samples = [(f"sample {i // 3}", 0) for i in range(30)] + [("x", 1), ("y", 1)]

    kept, held_out = split_by_class(NamedSamples(samples), 0.5, 0)

    assert not {samples[i] for i in kept} & {samples[i] for i in held_out}


def test_a_class_of_one_sample_cannot_be_split(tmp_path):
    write_class_folders(tmp_path, {"cat": 5, "dog": 1})

    with pytest.raises(DataError, match="expected at least 2 samples in every class to split, received 1 in 'dog'"):
        open_data(tmp_path)


def test_without_a_fraction_there_is_no_validation_data(tmp_path):
    write_class_folders(tmp_path, {"cat": 5, "dog": 1})

    splits = open_data(tmp_path, validation_fraction=0.0)

    assert splits.validation is None
    assert splits.test is None
    assert len(splits.train) == 6


def test_validation_and_test_data_count_in_the_classes_of_training(tmp_path):
    write_class_folders(tmp_path / "train", {"bird": 2, "cat": 2, "dog": 2})
    write_class_folders(tmp_path / "val", {"cat": 1, "dog": 1}, first_seed=100)
    (tmp_path / "test.csv").write_text("path,label\nval/dog/000.jpg,dog\n")

    splits = open_data(tmp_path / "train", validation_path=str(tmp_path / "val"), test_path=str(tmp_path / "test.csv"))

    assert splits.validation.labels == splits.test.labels == splits.train.labels == ("bird", "cat", "dog")
    assert [splits.validation.label(i) for i in range(2)] == [1, 2]
    assert splits.test.read(0)[1] == 2
    assert len(splits.train) == 6


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_class_that_training_lacks_is_refused(tmp_path, split):
    write_class_folders(tmp_path / "train", {"cat": 2, "dog": 2})
    write_class_folders(tmp_path / "other", {"cat": 1, "wolf": 1})

    with pytest.raises(DataError, match=rf"data\.{split}_path: expected only classes .*'cat', 'dog'.* 'wolf' too"):
        open_data(tmp_path / "train", **{f"{split}_path": str(tmp_path / "other")})


def test_one_class_only_is_refused(tmp_path):
    write_class_folders(tmp_path, {"cat": 5})

    with pytest.raises(DataError, match="expected at least two classes, received one: 'cat'"):
        open_data(tmp_path)


def test_a_class_folder_without_images_is_refused(tmp_path):
    write_class_folders(tmp_path, {"cat": 5, "dog": 5, "wolf": 0})

    with pytest.raises(DataError, match="expected samples of every class, received none of 'wolf'"):
        open_data(tmp_path)


def test_a_missing_validation_path_is_named(tmp_path):
    write_class_folders(tmp_path, {"cat": 5, "dog": 5})

    with pytest.raises(DataError, match=r"data\.validation_path: .* nothing at"):
        open_data(tmp_path, validation_path=str(tmp_path / "val"))


def test_the_fingerprint_is_the_same_for_the_same_data_elsewhere(tmp_path):
    for name in ("here", "there"):
        write_class_folders(tmp_path / name, {"cat": 5, "dog": 5})

    assert open_data(tmp_path / "here").fingerprint == open_data(tmp_path / "there").fingerprint
    assert len(open_data(tmp_path / "here").fingerprint) == 64


@pytest.mark.parametrize("change", ["name", "label", "size", "seed", "split"])
def test_the_fingerprint_tells_data_apart(tmp_path, change):
    write_class_folders(tmp_path, {"cat": 5, "dog": 5})
    before = open_data(tmp_path).fingerprint

    if change == "name":
        (tmp_path / "cat" / "000.jpg").rename(tmp_path / "cat" / "zzz.jpg")
    elif change == "label":
        (tmp_path / "cat" / "000.jpg").rename(tmp_path / "dog" / "zzz.jpg")
    elif change == "size":
        with open(tmp_path / "cat" / "000.jpg", "ab") as file:
            file.write(b"\0")

    after = open_data(
        tmp_path, seed=int(change == "seed"), validation_fraction=0.4 if change == "split" else 0.2
    ).fingerprint
    assert after != before


def test_the_fingerprint_of_arrays_covers_their_pixels():
    first = open_data("digits")

    assert first.fingerprint == open_data("digits").fingerprint
    assert fingerprint(ArraySource(3)) != fingerprint(ArraySource(4))
    assert class_counts(first.train).tolist() == [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]
