"""From samples to the tensors of a step, on one process."""

import logging
import threading

import numpy as np
import pytest

from tests.image_files import jpeg, picture, png
from tests.samples import ArraySource, index_of
from tfpipe.data.pipeline import RowReader, evaluation_batches, training_batches
from tfpipe.data.sources import to_pixels
from tfpipe.decode import decode_image
from tfpipe.distributed import World
from tfpipe.preprocessing.layers import DRAWS, Resize

pytestmark = pytest.mark.tensorflow


class CountingSource(ArraySource):
    """Counts how often each sample is read."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.reads = np.zeros(len(self), int)
        self._lock = threading.Lock()

    def read(self, index):
        with self._lock:
            self.reads[index] += 1
        return super().read(index)


class FileSource(ArraySource):
    """Encoded files of several sizes."""

    def __init__(self, contents):
        super().__init__(len(contents))
        self.contents = contents

    def read(self, index):
        return self.contents[index], self.label(index)


def reader_of(source, size=(2, 2), cache="memory", max_pixels=10_000, **options):
    return RowReader(source, Resize(*size), max_pixels=max_pixels, cache=cache, **options)


def epoch_of(reader, *, epoch=0, batch_size=5, seed=0, first_step=0, world=World()):  # noqa: B008  # frozen
    return list(
        training_batches(reader, batch_size=batch_size, seed=seed, epoch=epoch, world=world, first_step=first_step)
    )


def indices_of(batches):
    return [index_of(image) for batch in batches for image in batch.rows.numpy()]


def test_every_sample_is_seen_once_an_epoch_in_an_order_of_its_own():
    reader = reader_of(ArraySource(23))

    first, second, again = (indices_of(epoch_of(reader, epoch=epoch)) for epoch in (0, 1, 0))

    assert sorted(first) == sorted(second) == list(range(23))
    assert first == again != second
    assert first != list(range(23))
    assert indices_of(epoch_of(reader, seed=1)) != first


def test_a_step_holds_what_it_says():
    source = ArraySource(12, labels=("a", "b", "c"), size=(4, 6))
    batches = epoch_of(reader_of(source, size=(4, 6)), batch_size=5)

    assert [batch.rows.shape for batch in batches] == [(5, 4, 6, 3), (5, 4, 6, 3), (2, 4, 6, 3)]
    for batch in batches:
        assert batch.rows.dtype == "float32"
        assert batch.labels.numpy().tolist() == [index_of(image) % 3 for image in batch.rows.numpy()]
        assert batch.weights.numpy().tolist() == [1.0] * len(batch.rows)
        assert batch.draws.shape == (len(batch.rows), len(DRAWS))
        assert float(batch.num_corrupt) == 0.0


def test_a_run_goes_on_in_the_middle_of_an_epoch():
    reader = reader_of(ArraySource(23))

    assert indices_of(epoch_of(reader, first_step=2)) == indices_of(epoch_of(reader))[10:]
    assert epoch_of(reader, first_step=5) == []


def test_the_draws_of_a_sample_do_not_depend_on_the_batch_size():
    reader = reader_of(ArraySource(12))

    by_size = [
        {
            index_of(image): draws.tobytes()
            for batch in epoch_of(reader, batch_size=size, epoch=3)
            for image, draws in zip(batch.rows.numpy(), batch.draws.numpy(), strict=True)
        }
        for size in (1, 5, 12)
    ]

    assert by_size[0] == by_size[1] == by_size[2]
    assert len(set(by_size[0].values())) == 12


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_files_of_any_size_and_arrays_become_the_rows_that_the_model_makes_of_them(cache):
    contents = [jpeg(1, 9, 7), picture(5, 11, 2), png(3, 30, 20), jpeg(4, 9, 7), picture(8, 8, 5)]
    resize = Resize(6, 5)
    reader = RowReader(FileSource(contents), resize, max_pixels=10_000, cache=cache)

    rows, readable = reader.read(np.array([4, 0, 2, 1, 3, 0]))

    assert readable.all()
    for row, index in zip(rows, (4, 0, 2, 1, 3, 0), strict=True):
        pixels = decode_image(contents[index]) if isinstance(contents[index], bytes) else contents[index]
        np.testing.assert_allclose(row, np.asarray(resize(pixels[None]))[0], atol=1e-3)


def test_an_image_of_too_many_pixels_counts_as_corrupt():
    reader = reader_of(FileSource([picture(10, 10), png(1, 20, 20)]), max_pixels=150)

    _, readable = reader.read(np.arange(2))

    assert readable.tolist() == [True, False]
    assert "400" in reader.corrupt[1]


def test_what_a_sample_is_does_not_change_with_the_cache():
    rows = [reader_of(FileSource([jpeg(seed) for seed in range(6)]), (7, 5), cache).read(np.arange(6))[0]
            for cache in ("memory", "none")]  # fmt: skip

    np.testing.assert_array_equal(rows[0], rows[1])


# The cache ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cache", "reads"), [("memory", 1), ("none", 3), ("auto", 1)])
def test_a_cached_sample_is_read_once(cache, reads):
    source = CountingSource(11)
    reader = reader_of(source, cache=cache)

    for epoch in range(3):
        epoch_of(reader, epoch=epoch)

    assert source.reads.tolist() == [reads] * 11


def test_auto_keeps_nothing_that_does_not_fit():
    class Huge(ArraySource):
        def label(self, index):
            return 0

    # 60,000 rows of 12 MB: 720 GB.
    assert not reader_of(Huge(60_000), (1000, 1000), "auto").caches
    assert reader_of(ArraySource(10), (8, 8), "auto").caches
    # What fits one worker need not fit ten million on the same machine.
    assert not reader_of(ArraySource(10), (100, 100), "auto", processes=10_000_000).caches


def test_a_corrupt_sample_is_read_once_even_without_a_cache():
    source = CountingSource(8, corrupt={3})
    reader = reader_of(source, cache="none")

    for epoch in range(3):
        epoch_of(reader, epoch=epoch)

    assert source.reads.tolist() == [3, 3, 3, 1, 3, 3, 3, 3]


# Corrupt samples ------------------------------------------------------------------------------------------------------


def test_corrupt_samples_are_left_out_and_counted_in_their_step():
    corrupt = {0, 4, 5, 9}
    reader = reader_of(ArraySource(12, corrupt=corrupt))

    batches = epoch_of(reader, batch_size=4)

    assert sorted(indices_of(batches)) == [index for index in range(12) if index not in corrupt]
    assert sum(float(batch.num_corrupt) for batch in batches) == 4
    for batch in batches:
        assert len(batch.rows) + float(batch.num_corrupt) == 4
        assert batch.labels.numpy().tolist() == [index_of(image) % 2 for image in batch.rows.numpy()]


def test_a_step_with_nothing_to_read_is_one_empty_row_of_weight_zero():
    reader = reader_of(ArraySource(6, corrupt=range(6)))

    (batch,) = epoch_of(reader, batch_size=6)

    assert batch.rows.shape == (1, 2, 2, 3)
    assert batch.weights.numpy().tolist() == [0.0]
    assert float(batch.num_corrupt) == 6.0
    assert batch.draws.shape == (1, len(DRAWS))


def test_corrupt_samples_are_named_and_many_of_them_only_counted(caplog):
    reader = reader_of(ArraySource(20, corrupt=range(8)))

    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            epoch_of(reader, epoch=epoch)

    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 6
    assert all(message.startswith("skipped corrupt sample sample/") for message in messages[:5])
    assert messages[5] == "further corrupt samples are counted, not listed."
    assert set(reader.corrupt) == set(range(8))


def test_a_file_that_goes_away_is_a_corrupt_sample():
    class Vanishing(ArraySource):
        def read(self, index):
            raise FileNotFoundError(2, "No such file or directory", f"{index}.png")

    _, readable = reader_of(Vanishing(3)).read(np.arange(3))

    assert not readable.any()


# Evaluation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 2, 7, 12])
def test_evaluation_scores_every_sample_once_on_any_number_of_workers(num_samples, world_size):
    reader = reader_of(ArraySource(num_samples))

    seen = []
    for rank in range(world_size):
        for batch in evaluation_batches(reader, batch_size=4, world=World(rank, world_size)):
            kept = batch.weights.numpy() > 0
            seen += [index_of(image) for image in batch.rows.numpy()[kept]]

    assert sorted(seen) == list(range(num_samples))


def test_evaluation_keeps_the_order_of_the_data():
    reader = reader_of(ArraySource(11))

    assert indices_of(evaluation_batches(reader, batch_size=4, world=World())) == list(range(11))


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_together_do_the_step_of_one(world_size):
    reader = reader_of(ArraySource(17, corrupt={2, 11}))

    alone = [sorted(indices_of([batch])) for batch in epoch_of(reader)]
    shares = [epoch_of(reader, world=World(rank, world_size)) for rank in range(world_size)]

    assert {len(share) for share in shares} == {len(alone)}
    for step, expected in enumerate(alone):
        together = []
        for share in shares:
            kept = share[step].weights.numpy() > 0
            together += [index_of(image) for image in share[step].rows.numpy()[kept]]
        assert sorted(together) == expected


def test_the_decoder_of_training_is_the_decoder_of_the_service():
    content = jpeg(9, 31, 17)

    np.testing.assert_array_equal(to_pixels(content, 10_000), decode_image(content))
