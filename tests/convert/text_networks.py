"""Text networks converted to ONNX, and one that has learnt something."""

import functools

import keras
import numpy as np
import onnx

from tests.models.text_networks import PAD, randomised, text_network
from tfpipe.convert.to_onnx import text_network_to_onnx
from tfpipe.models.text_zoo import Tokens
from tfpipe.ort import open_session
from tfpipe.preprocessing.layers import Probabilities

CLASSES = 3
TOKENS = Tokens(vocabulary_size=500, pad_id=PAD, max_length=32)
FAMILIES = ("text_cnn", "text_bilstm", "bert", "roberta", "distilbert")
TRANSFORMERS = FAMILIES[2:]
SIZES = {"width": 32, "num_layers": 2, "num_heads": 4, "feed_forward_width": 64}


def network_of(family, *, per_token=False, **model):
    """A small network; no weight is 0 or 1, as it was at first."""
    network = text_network(family, per_token=per_token, num_classes=CLASSES, tokens=TOKENS, **{**SIZES, **model})
    before = [np.array(weight) for weight in network.weights]
    for weight, value in zip(randomised(network).weights, before, strict=True):
        # Biases as they are drawn; kernels stay small, so that no softmax is saturated.
        if weight.dtype == "float32" and ("kernel" in weight.path or "embeddings" in weight.path):
            weight.assign(value)
    return network


def probabilities():
    """The layer from logits to probabilities."""
    return Probabilities([str(number) for number in range(CLASSES)], name="probabilities")


def graph_of_network(network, *, per_token=False, opset=18):
    """The float32 graph."""
    return text_network_to_onnx(
        network, probabilities(), num_outputs=CLASSES, per_token=per_token, opset=opset, metadata={"labels": "[]"}
    )


@functools.cache
def _converted(family, per_token):
    network = network_of(family, per_token=per_token)
    return network, graph_of_network(network, per_token=per_token).SerializeToString()


def network_of_family(family, *, per_token=False):
    """A small network, made once; not to be changed."""
    return _converted(family, per_token)[0]


def graph_of_family(family, *, per_token=False):
    """The float32 graph of `network_of_family`, a copy."""
    return onnx.load_from_string(_converted(family, per_token)[1])


def rows_of(*lengths, to=None, seed=5):
    """Random rows of these lengths, padded to the longest or further: (rows, tokens) int32."""
    random = np.random.default_rng(seed)
    rows = np.full((len(lengths), to or max(lengths)), PAD, np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = random.integers(PAD + 1, TOKENS.vocabulary_size, length)
    return rows


def keras_answers(network, rows):
    """Keras's probabilities."""
    return np.asarray(probabilities()(network(rows, training=False)))


def onnx_answers(model, rows, **options):
    """ONNX Runtime's."""
    session = open_session(model.SerializeToString(), provider="cpu", **options)
    return session.run({"input": rows})["probabilities"]


def labelled_rows(count, seed):
    """Rows of 4 to 20 tokens, and which of three kinds of words each has most of."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    lengths = random.integers(4, 21, count)
    rows = np.full((count, 20), PAD, np.int32)
    words = np.arange(PAD + 1, TOKENS.vocabulary_size)
    for row, label, length in zip(rows, labels, lengths, strict=True):
        # Two words of three are of its kind.
        kinds = np.where(random.random(length) < 0.67, label, random.integers(0, CLASSES, length))
        row[:length] = [random.choice(words[words % CLASSES == kind]) for kind in kinds]
    return rows, labels


def trained_network(family):
    """A network that has learnt which words are of which kind."""
    network = text_network(family, num_classes=CLASSES, tokens=TOKENS, **{**SIZES, "num_layers": 1})
    rows, labels = labelled_rows(600, seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    network.fit(rows, labels, batch_size=30, epochs=4, verbose=0)
    return network
