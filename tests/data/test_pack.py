import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image_files import jpeg, with_orientation, write_class_folders
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data.pack import pack
from tfpipe.data.sources import open_source, to_pixels
from tfpipe.data.splits import open_splits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture
def data(tmp_path):
    return write_class_folders(tmp_path / "data", {"cat": 5, "dog": 3})


def contents(source):
    """{identifier: (class name, bytes)} of all samples."""
    samples = ((source.identifier(i), *source.read(i)) for i in range(len(source)))
    return {identifier: (source.labels[label], sample) for identifier, sample, label in samples}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    counts=st.dictionaries(
        st.text("abc0123 é", min_size=1, max_size=4).filter(str.strip), st.integers(1, 4), min_size=1, max_size=4
    ),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**31 - 1),
)
def test_what_was_packed_is_read_back(tmp_path_factory, counts, shards, seed):
    folder = tmp_path_factory.mktemp("pack")
    source = open_source(str(write_class_folders(folder / "data", counts)))
    shards = min(shards, len(source))

    result = pack(str(folder / "data"), folder / "packed", shards=shards, seed=seed)
    packed = open_source(str(folder / "packed"))

    assert contents(packed) == contents(source)
    assert packed.labels == source.labels == result.labels
    assert (result.num_samples, result.num_shards) == (len(source), shards)
    assert len(list((folder / "packed").glob(f"data-*-of-{shards:05d}.tfrecord"))) == shards


def test_packing_twice_gives_the_same_bytes(data, tmp_path):
    pack(str(data), tmp_path / "one", shards=3, seed=4)
    pack(str(data), tmp_path / "two", shards=3, seed=4)

    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_content_hash_knows_neither_order_nor_shards(data, tmp_path):
    first = pack(str(data), tmp_path / "one", shards=3, seed=4)
    second = pack(str(data), tmp_path / "two", shards=1, seed=5)
    again = pack(str(tmp_path / "two"), tmp_path / "three", shards=2)

    assert first.content_sha256 == second.content_sha256 == again.content_sha256
    (data / "cat" / "000.jpg").write_bytes(jpeg(77))
    assert pack(str(data), tmp_path / "four").content_sha256 != first.content_sha256


def test_the_manifest_says_what_is_in_each_shard(data, tmp_path):
    pack(str(data), tmp_path / "packed", shards=2)

    manifest = json.loads((tmp_path / "packed" / "manifest.json").read_text())

    assert manifest["labels"] == ["cat", "dog"]
    assert manifest["classes"] == {"cat": 5, "dog": 3}
    assert [shard["num_samples"] for shard in manifest["shards"]] == [4, 4]
    assert [name for shard in manifest["shards"] for name in shard["identifiers"]] == [
        open_source(str(tmp_path / "packed")).identifier(i) for i in range(8)
    ]


def test_the_seed_shuffles(data, tmp_path):
    orders = []
    for seed in range(2):
        pack(str(data), tmp_path / str(seed), seed=seed)
        source = open_source(str(tmp_path / str(seed)))
        orders.append([source.identifier(i) for i in range(len(source))])

    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) != orders[0]


def test_arrays_become_png_with_their_class_order_kept(tmp_path):
    pack("digits", tmp_path / "packed")

    digits, packed = open_source("digits"), open_source(str(tmp_path / "packed"))

    assert packed.labels == digits.labels
    position = {packed.identifier(i): i for i in range(len(packed))}
    for index in range(0, 1797, 200):
        sample, label = packed.read(position[digits.identifier(index)])
        np.testing.assert_array_equal(to_pixels(sample), digits.read(index)[0])
        assert label == digits.label(index)


@pytest.mark.tensorflow
def test_tensorflow_reads_the_usual_keys(data, tmp_path):
    import tensorflow as tf

    (data / "cat" / "turned.jpg").write_bytes(with_orientation(np.zeros((20, 30, 3), np.uint8), 6))
    pack(str(data), tmp_path / "packed", shards=1)

    records = tf.data.TFRecordDataset(str(tmp_path / "packed" / "data-00000-of-00001.tfrecord"))
    examples = [tf.train.Example.FromString(record).features.feature for record in records.as_numpy_iterator()]

    (turned,) = [e for e in examples if e["image/filename"].bytes_list.value[0] == b"cat/turned.jpg"]
    assert turned["image/encoded"].bytes_list.value[0] == (data / "cat" / "turned.jpg").read_bytes()
    assert turned["image/class/text"].bytes_list.value[0] == b"cat"
    assert turned["image/class/label"].int64_list.value[0] == 0
    assert turned["image/format"].bytes_list.value[0] == b"JPEG"
    # As stored, not upright.
    assert (turned["image/height"].int64_list.value[0], turned["image/width"].int64_list.value[0]) == (20, 30)


def test_corrupt_samples_are_refused_by_name(data, tmp_path):
    for number in range(7):
        (data / "cat" / f"bad{number}.jpg").write_bytes(b"")

    with pytest.raises(DataError, match=r"7 of 15 are not.*\n  cat/bad0\.jpg: .*0 bytes(.|\n)*and 2 more"):
        pack(str(data), tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_corrupt_samples_are_left_out_and_counted_where_asked(data, tmp_path):
    (data / "cat" / "bad.jpg").write_bytes(b"")

    result = pack(str(data), tmp_path / "packed", skip_corrupt=True)

    assert [sample.identifier for sample in result.skipped] == ["cat/bad.jpg"]
    assert result.num_samples == 8
    assert json.loads((tmp_path / "packed" / "manifest.json").read_text())["skipped"] == ["cat/bad.jpg"]


def test_nothing_but_corrupt_samples_is_refused(tmp_path):
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "a.jpg").write_bytes(b"")

    with pytest.raises(DataError, match="expected readable samples, found none of 1"):
        pack(str(tmp_path / "data"), tmp_path / "packed", skip_corrupt=True)


def test_an_existing_folder_is_left_alone(data, tmp_path):
    pack(str(data), tmp_path / "packed")
    before = files(tmp_path / "packed")
    write_class_folders(data, {"wolf": 2}, first_seed=100)

    with pytest.raises(
        ConfigError, match=r"expected a new folder, found an existing .* --overwrite replaces an earlier pack"
    ):
        pack(str(data), tmp_path / "packed")

    assert files(tmp_path / "packed") == before
    assert pack(str(data), tmp_path / "packed", overwrite=True).labels == ("cat", "dog", "wolf")


def test_only_a_pack_is_ever_overwritten(data, tmp_path):
    precious = write_class_folders(tmp_path / "precious", {"cat": 1})

    with pytest.raises(ConfigError, match="expected an earlier pack to replace, found something else"):
        pack(str(data), precious, overwrite=True)

    assert (precious / "cat" / "000.jpg").exists()


def test_a_pack_inside_its_own_data_is_refused(data):
    with pytest.raises(ConfigError, match="expected a folder outside of the data"):
        pack(str(data), data / "packed")


@pytest.mark.parametrize("shards", [0, -1, 9])
def test_a_number_of_shards_that_does_not_fit_is_refused(data, tmp_path, shards):
    with pytest.raises(ConfigError, match=f"expected 1 to 8, the number of samples; received {shards}"):
        pack(str(data), tmp_path / "packed", shards=shards)


@pytest.fixture
def packed(data, tmp_path):
    pack(str(data), tmp_path / "packed", shards=3)
    return tmp_path / "packed"


def test_a_missing_shard_is_noticed(packed):
    (packed / "data-00001-of-00003.tfrecord").unlink()

    with pytest.raises(DataError, match=r"expected the 3 shards of manifest\.json, found no data-00001-of-00003"):
        open_source(str(packed))


def test_a_shard_cut_between_records_is_noticed(packed):
    shard = packed / "data-00001-of-00003.tfrecord"
    shard.write_bytes(b"")

    with pytest.raises(DataError, match=r"expected \d+ bytes as manifest\.json says, received 0"):
        open_source(str(packed))


def test_a_shard_that_is_none_of_the_pack_is_noticed(packed):
    shutil.copy(packed / "data-00001-of-00003.tfrecord", packed / "more.tfrecord")

    with pytest.raises(DataError, match=r"more\.tfrecord: expected a shard that manifest\.json beside it names"):
        open_source(str(packed))


def test_one_shard_of_a_pack_counts_in_the_classes_of_all(packed):
    source = open_source(str(packed / "data-00001-of-00003.tfrecord"))

    assert source.labels == ("cat", "dog")
    assert len(source) in (2, 3)


def test_a_manifest_of_another_program_is_left_alone(packed):
    (packed / "manifest.json").write_text('{"name": "web app"}')

    assert len(open_source(str(packed))) == 8


def test_a_manifest_that_is_no_json_is_refused(packed):
    (packed / "manifest.json").write_text("{")

    with pytest.raises(DataError, match=r"manifest\.json: expected JSON"):
        open_source(str(packed))


def test_a_pack_is_split_as_its_folder_is(data, packed):
    def sides(path):
        from tfpipe.config import parse_config

        splits = open_splits(parse_config({"data": {"path": str(path)}}, where="test"))
        return {splits.validation.identifier(i) for i in range(len(splits.validation))}

    assert sides(packed) == sides(data)
