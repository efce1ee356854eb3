"""Tokenizers of all kinds, made once."""

import pytest

from tests.text.texts import CORPUS
from tfpipe.text.train_tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def sentence_pieces():
    return train_tokenizer(CORPUS, kind="sentencepiece", vocabulary_size=400)


@pytest.fixture(scope="session")
def byte_pairs():
    return train_tokenizer(CORPUS, kind="bpe", vocabulary_size=400)


@pytest.fixture(scope="session")
def word_pieces():
    """Imports TensorFlow: only for tests that are marked so."""
    return train_tokenizer(CORPUS, kind="wordpiece", vocabulary_size=400, lowercase=True)
