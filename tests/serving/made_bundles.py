"""Small bundles, made once a session: fixtures for a conftest to import."""

from pathlib import Path

import pytest

from tests.serving.bundles import make_bundle
from tests.serving.text_bundles import make_text_bundle
from tests.text.texts import CORPUS
from tfpipe.text.encoding import Tokenizer
from tfpipe.text.train_tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "colours")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CORPUS, kind="bpe", vocabulary_size=400)


@pytest.fixture(scope="session")
def text_bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a few classes for a text."""
    return make_text_bundle(tmp_path_factory.mktemp("bundles") / "moods", tokenizer)


@pytest.fixture(scope="session")
def multi_label_bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_bundle(tmp_path_factory.mktemp("bundles") / "moods", tokenizer, multi_label=True)


@pytest.fixture(scope="session")
def tags_bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "names"
    return make_text_bundle(folder, tokenizer, task="token_classification")
