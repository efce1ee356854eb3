"""Whatever is set in the environment, and may be, is what the service goes by."""

import contextlib
import json
import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.__main__ import listen
from serving.app import create_app, isolation_of
from serving.logs import configure_logging
from serving.settings import ServingSettings, read_settings, variable_of
from serving.source import entries, names_several
from serving.tls import server_context, tls_files
from tests.serving.certificates import make_pair
from tfpipe.core.errors import ConfigError

FIELDS = ServingSettings.model_json_schema(by_alias=False)["properties"]
# Of what the type alone does not say: what a path, an address, a model may be.
TEXTS = {
    "model": st.sampled_from(["bundles/digits-3", "models:/digits@champion", "digits=models:/a/1, b=/bundles/b"]),
    "registered_model": st.from_regex(r"[A-Za-z0-9][\w.-]{0,30}", fullmatch=True),
    "precision": st.sampled_from(["auto", "fp32", "fp16", "int8"]),
    "host": st.sampled_from(["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "::1"]),
    "traces_endpoint": st.integers(1, 65535).map("http://127.0.0.1:{}".format),
    "cache_dir": st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20).map("/var/{}".format),
}
FILES = ("api_keys_file", "tls_cert_file", "tls_key_file")
# They say nothing to the service.
OTHERS = {
    "TFPIPE_SERVING_SERVICE_HOST": "10.0.0.1",
    "TFPIPE_SERVING_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "TFPIPE_SERVINGS": "2",
    "PORT": "1",
}


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Whatever a setting may be, as its own type."""
    if name in TEXTS:
        return TEXTS[name]
    kinds = [kind for kind in FIELDS[name].get("anyOf", [FIELDS[name]]) if kind.get("type") != "null"]
    (kind,) = kinds
    if "enum" in kind:
        return st.sampled_from(kind["enum"])
    if kind["type"] == "integer":
        return st.integers(kind["minimum"], kind.get("maximum", 2**53))
    return st.floats(kind["exclusiveMinimum"], 1e9, exclude_min=True)


@st.composite
def environments(draw: st.DrawFn, files: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """Some settings by name, and the environment that says so."""
    chosen = draw(st.sets(st.sampled_from([name for name in FIELDS if name not in FILES])))
    values = {name: draw(values_of(name)) for name in sorted(chosen)}
    if draw(st.booleans()):
        values["api_keys_file"] = files["api_keys_file"]
    if draw(st.booleans()):
        values |= {name: files[name] for name in ("tls_cert_file", "tls_key_file")}
    environ = {variable_of(name): written(draw, name, value) for name, value in values.items()}
    unset = draw(st.sets(st.sampled_from(sorted(FIELDS))))
    return values, {variable_of(name): "" for name in unset if name not in values} | environ | draw_some(draw, OTHERS)


def written(draw: st.DrawFn, name: str, value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    # Choices are taken however they are written.
    is_choice = "enum" in json.dumps(FIELDS[name])
    return value.upper() if is_choice and draw(st.booleans()) else str(value)


def draw_some(draw: st.DrawFn, of: Mapping[str, str]) -> dict[str, str]:
    return {name: of[name] for name in draw(st.sets(st.sampled_from(sorted(of))))}


@contextlib.contextmanager
def environment(environ: Mapping[str, str]) -> Iterator[None]:
    """Our part of this process's environment is this, and nothing else."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("TFPIPE_")]:
        del os.environ[name]
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def logging_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    cert, key = make_pair(folder)
    keys = folder / "keys.yaml"
    keys.write_text(f"- {{name: anybody, sha256: {'ab' * 32}, scopes: [predict]}}\n")
    return {"api_keys_file": keys, "tls_cert_file": cert, "tls_key_file": key}


# Feature: deep-learning-pipeline, Property 27: Environment configuration
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_service_configures_itself_from_any_valid_environment(files, data):
    values, environ = data.draw(environments(files))

    with environment(environ):
        received = read_settings()

    defaults = {name: field.default for name, field in ServingSettings.model_fields.items()}
    expected = defaults | values | ({"cache_dir": Path(values["cache_dir"])} if "cache_dir" in values else {})
    assert received.model_dump() == expected
    check_effect(received)


def check_effect(received: ServingSettings) -> None:
    """What is built from the settings goes by them; a model is not loaded."""
    with logging_put_back():
        configure_logging(received.log_level)
        assert logging.getLogger().level == getattr(logging, received.log_level.upper())
    # Any port may be somebody else's on this machine.
    with contextlib.suppress(ConfigError), listen(received.host, received.port) as listener:
        address, port = listener.getsockname()[:2]
        assert address == received.host or received.host == "localhost"
        assert port == received.port or received.port == 0
    pair = tls_files(received.tls_cert_file, received.tls_key_file)
    assert (pair is None) == (received.tls_cert_file is None)
    if pair is not None:
        assert isinstance(server_context(pair), ssl.SSLContext)
    # An exporter for each example would be a hundred threads.
    app = create_app(received.model_copy(update={"traces_endpoint": None}), open_engines=lambda: ())
    try:
        assert isolation_of(received) == (received.isolation or ("process" if is_several(received) else "inline"))
        assert app.service.settings.model_copy(update={"traces_endpoint": received.traces_endpoint}) == received
    finally:
        app.service.close()


def is_several(received: ServingSettings) -> bool:
    assert names_several(received.model) == (len(entries(received.model)) > 1)
    return received.model is not None and "," in received.model
