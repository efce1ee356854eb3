"""What the service and the process of a model say to each other."""

import os
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from serving.channel import Channel, TensorMemory

dtypes = st.sampled_from(["float32", "float16", "int64", "uint8", "bool"])
tensors = st.dictionaries(
    st.text(max_size=5),
    dtypes.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)


@pytest.fixture
def both_sides():
    """The memory as the process that writes sees it, and as the one that reads does."""
    writer = TensorMemory.create()
    reader = TensorMemory(os.dup(writer.file))
    yield writer, reader
    writer.close()
    reader.close()


@given(messages=st.lists(tensors, min_size=1, max_size=3))
def test_tensors_are_read_as_they_were_written(messages):
    writer = TensorMemory.create()
    reader = TensorMemory(os.dup(writer.file))

    for message in messages:
        found = reader.read(writer.write(message))

        assert list(found) == list(message)
        for name, tensor in message.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert found[name].tobytes() == tensor.tobytes()
    writer.close()
    reader.close()


def test_each_tensor_is_aligned_for_vector_instructions(both_sides):
    writer, reader = both_sides

    found = reader.read(writer.write({"a": np.zeros(3, np.uint8), "b": np.zeros(5), "c": np.zeros(2)}))

    assert [array.__array_interface__["data"][0] % 64 for array in found.values()] == [0, 0, 0]


def test_tensors_that_are_not_contiguous_are_written(both_sides):
    writer, reader = both_sides
    table = np.arange(12.0).reshape(3, 4)

    found = reader.read(writer.write({"turned": table.T, "every other": table[:, ::2]}))

    assert np.array_equal(found["turned"], table.T)
    assert np.array_equal(found["every other"], table[:, ::2])


def test_the_memory_grows_and_gives_back_what_a_large_message_took(both_sides):
    writer, reader = both_sides
    large = np.ones(160 << 20, np.uint8)

    found = reader.read(writer.write({"large": large}))
    is_equal = bool(np.array_equal(found["large"], large))
    del found
    reader.trim()

    assert is_equal
    assert os.fstat(writer.file).st_blocks * 512 <= 64 << 20
    small = reader.read(writer.write({"small": np.arange(3)}))["small"]
    assert small.tolist() == [0, 1, 2]


def test_the_other_side_cannot_take_memory_away(both_sides):
    writer, reader = both_sides
    writer.write({"a": np.zeros(9)})

    with pytest.raises(PermissionError):
        os.ftruncate(reader.file, 0)


@pytest.fixture
def pair():
    sockets = socket.socketpair()
    channels = [Channel(one) for one in sockets]
    yield channels
    for channel in channels:
        channel.close()


def test_messages_arrive_one_by_one(pair):
    here, there = pair
    for number in range(2):
        here.send({"number": number})

    sender = threading.Thread(target=here.send, args=({"number": 2, "text": "ü" * 1_000_000},))
    sender.start()
    received = [there.receive(9.0) for _ in range(3)]
    sender.join()

    assert [message["number"] for message in received] == [0, 1, 2]
    assert received[-1]["text"] == "ü" * 1_000_000


def test_who_waits_is_told_that_nothing_came_and_that_nobody_is_there(pair):
    here, there = pair

    with pytest.raises(TimeoutError):
        here.receive(0.01)
    there.close()
    with pytest.raises(EOFError):
        here.receive(9.0)
    with pytest.raises(BrokenPipeError):
        here.send({})


def test_who_waits_is_told_that_its_message_was_not_read(pair):
    here, there = pair
    here.send({})
    there.close()

    with pytest.raises(ConnectionResetError):
        here.receive(9.0)
