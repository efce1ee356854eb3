"""Sentences per second that the service's tokenizer takes, over those of the Keras layer, one sentence a call.

    make bench NAME=tokenizing

10,000 sentences of 19 words, the mean of SST-2, drawn by Zipf's law from 20,000 words of which some have accents;
WordPiece of 8,000 tokens, lower case. The Keras layer runs compiled, which is its faster way. Each turn loads the
tokenizer anew, so that it remembers no word of the turn before.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.measure import alternate, conclude, ratios
from tfpipe.text.keras_side import keras_layer, save_proved
from tfpipe.text.tokenizer import load_tokenizer
from tfpipe.text.train_tokenizer import train_tokenizer

SENTENCES = 10_000
WORDS = 20_000
TURNS = 5


def main() -> None:
    sentences = list(drawn_sentences())
    tokenizer = train_tokenizer(sentences, kind="wordpiece", vocabulary_size=8000, lowercase=True)
    layer = keras_layer(tokenizer)
    compiled = tf.function(lambda text: layer(text), input_signature=[tf.TensorSpec([1], tf.string)])
    compiled(tf.constant(["warm"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tokenizer"
        save_proved(tokenizer, folder)

        def service() -> float:
            encode = load_tokenizer(folder).encode
            started = time.perf_counter()
            for sentence in sentences:
                encode(sentence)
            return SENTENCES / (time.perf_counter() - started)

        def keras() -> float:
            started = time.perf_counter()
            for sentence in sentences:
                compiled(tf.constant([sentence])).flat_values.numpy()
            return SENTENCES / (time.perf_counter() - started)

        figures = alternate({"service": service, "keras": keras}, repeats=TURNS)
    conclude("tokenizing_vs_keras_layer", ratios(figures, "service", "keras"), goal=5.0, unit="ratio of sentences/s")


def drawn_sentences() -> Iterator[str]:
    random = np.random.default_rng(0)
    letters = list("eeeeetttaaoooiinnsshhrrddlcumwfgypbvké")
    words = ["".join(random.choice(letters, size)) for size in random.integers(1, 11, WORDS)]
    # Zipf's law cut off at the number of words.
    shares = 1 / np.arange(1, WORDS + 1)
    chosen = random.choice(words, (SENTENCES, 19), p=shares / shares.sum())
    return (f"{' '.join(row[:9]).capitalize()}, {' '.join(row[9:])}." for row in chosen)


if __name__ == "__main__":
    main()
