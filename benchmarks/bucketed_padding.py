"""Texts per second padded to the bucket of each run's longest, over those padded to 128 tokens.

    make bench NAME=bucketed_padding

1,024 texts whose lengths are spread as those of SST-2 are, answered by a transformer (4 layers, width 256) on ONNX
Runtime, one thread, at most 32 rows a run: by the service's own code, which runs texts of like length together, and
with every run padded to the model's maximum.
"""

import time

import keras
import numpy as np

from benchmarks.measure import alternate, conclude, ratios
from tfpipe.config import parse_config
from tfpipe.convert.to_onnx import text_network_to_onnx
from tfpipe.core.signature import Array
from tfpipe.inference.interface import in_runs
from tfpipe.inference.texts import TextInference
from tfpipe.models.text_zoo import Tokens, build_text_network
from tfpipe.ort import open_session
from tfpipe.preprocessing.layers import Probabilities
from tfpipe.text.packing import pad_rows
from tfpipe.text.train_tokenizer import train_tokenizer

MAX_LENGTH = 128
TEXTS = 1024
MAX_BATCH = 32
TURNS = 5
# Tokens of the training sentences of SST-2 at every twentieth, WordPiece of 8,000 tokens, special ones included.
LENGTHS = (3, 7, 10, 12, 13, 15, 17, 18, 20, 21, 23, 24, 26, 27, 29, 31, 33, 36, 39, 44, 70)


def main() -> None:
    tokenizer = train_tokenizer(["a text to have a vocabulary"] * 2, kind="wordpiece", vocabulary_size=40)
    inference = TextInference(tokenizer, task="text_classification", labels=("no", "yes"), max_length=MAX_LENGTH)
    random = np.random.default_rng(0)
    lengths = np.interp(random.uniform(0, len(LENGTHS) - 1, TEXTS), np.arange(len(LENGTHS)), LENGTHS).astype(int)
    rows: list[Array] = [random.integers(5, 8000, length).astype(np.int32) for length in lengths]
    session = open_session(model(tokenizer.pad_id), provider="cpu", threads=1)

    def bucketed() -> float:
        started = time.perf_counter()
        for positions in in_runs(inference, rows, MAX_BATCH):
            session.run({"input": inference.batch([rows[position] for position in positions])})
        return TEXTS / (time.perf_counter() - started)

    def to_the_maximum() -> float:
        started = time.perf_counter()
        for start in range(0, TEXTS, MAX_BATCH):
            session.run({"input": pad_rows(rows[start : start + MAX_BATCH], MAX_LENGTH, tokenizer.pad_id)[0]})
        return TEXTS / (time.perf_counter() - started)

    figures = alternate({"bucketed": bucketed, "to 128": to_the_maximum}, repeats=TURNS)
    conclude("bucketed_padding", ratios(figures, "bucketed", "to 128"), goal=3.0, unit="ratio of texts/s")


def model(pad_id: int) -> bytes:
    keras.utils.set_random_seed(0)
    values = {"name": "bert", "num_layers": 4, "width": 256, "num_heads": 4}
    config = parse_config({"task": "text_classification", "data": {"path": "none"}, "model": values}, where="benchmark")
    network = build_text_network(config, Tokens(8000, pad_id, MAX_LENGTH), 2, per_token=False)
    head = Probabilities(("no", "yes"))
    graph = text_network_to_onnx(network, head, num_outputs=2, per_token=False, opset=18, metadata={})
    return bytes(graph.SerializeToString())


if __name__ == "__main__":
    main()
