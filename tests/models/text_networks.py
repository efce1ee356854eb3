"""Small networks of texts, with weights that leave no difference small."""

import numpy as np

from tfpipe.config import parse_config
from tfpipe.models.text_zoo import Tokens, build_text_network

PAD = 3
TOKENS = Tokens(vocabulary_size=40, pad_id=PAD, max_length=24)
TRANSFORMERS = ("bert", "roberta", "distilbert")


def text_config(name="text_cnn", *, training=None, **model):
    """The configuration of a small network; further settings of `model` by name."""
    sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "feed_forward_width": 12}
    return parse_config(
        {
            "task": "text_classification",
            "data": {"path": "texts"},
            "model": {"name": name, **sizes, **model},
            "training": training or {},
        },
        where="test",
    )


def text_network(name="text_cnn", *, per_token=False, num_classes=3, tokens=TOKENS, **model):
    """A network with its initial weights."""
    return build_text_network(text_config(name, **model), tokens, num_classes, per_token=per_token)


def randomised(network, seed=0):
    """Give every weight a value, biases too: at zero they would hide what reaches the logits."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.dtype == "float32":
            # A norm that shrinks what it gets would leave the bias alone to be seen.
            weight.assign(rng.normal(1.0 if "gamma" in weight.path else 0.0, 0.5, weight.shape))
    return network


def token_rows(*lengths, to=None, seed=0):
    """Rows of so many tokens each, padded to the longest, or to a length; (B, S) int32."""
    rng = np.random.default_rng(seed)
    rows = np.full((len(lengths), to or max(lengths)), PAD, np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = rng.integers(PAD + 1, TOKENS.vocabulary_size, length)
    return rows


def answers(network, rows):
    """Logits, as NumPy."""
    return np.asarray(network(rows, training=False))
