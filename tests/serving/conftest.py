from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.bundles import make_bundle
from tests.serving.made_bundles import bundle, multi_label_bundle, tags_bundle, text_bundle, tokenizer
from tests.serving.servers import Server, app_of, serving
from tests.serving.tensor_bundles import make_tensor_bundle

__all__ = ["bundle", "multi_label_bundle", "tags_bundle", "text_bundle", "tokenizer"]


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes some tenths of a second a run."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "slow", work=300)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with serving(app_of(bundle, max_batch_size=4, max_body_bytes=1_000_000, max_image_pixels=10_000)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> httpx.Client:
    return server.client


@pytest.fixture(scope="module")
def sums_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of named tensors."""
    with serving(app_of(make_tensor_bundle(tmp_path_factory.mktemp("bundles") / "sums"))) as running:
        yield running.client


@pytest.fixture(scope="module")
def moods_client(text_bundle: Path) -> Iterator[httpx.Client]:
    with serving(app_of(text_bundle)) as running:
        yield running.client


@pytest.fixture(scope="module")
def names_client(tags_bundle: Path) -> Iterator[httpx.Client]:
    with serving(app_of(tags_bundle)) as running:
        yield running.client
