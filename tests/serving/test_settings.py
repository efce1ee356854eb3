import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.settings import documented_settings, read_settings
from tfpipe.core.errors import ConfigError
from tfpipe.ort import open_session


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("TFPIPE_"):
            monkeypatch.delenv(name)


def test_defaults_listen_on_this_machine_only():
    settings = read_settings()

    assert (settings.host, settings.port, settings.precision, settings.provider) == ("127.0.0.1", 8000, "auto", "auto")


def test_the_environment_sets_each_setting(monkeypatch):
    monkeypatch.setenv("TFPIPE_SERVING_MODEL", "models:/digits@champion")
    monkeypatch.setenv("TFPIPE_SERVING_MAX_BATCH_SIZE", "16")
    monkeypatch.setenv("TFPIPE_SERVING_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("TFPIPE_REGISTERED_MODEL", "digits")

    settings = read_settings()

    assert settings.model == "models:/digits@champion"
    assert settings.max_batch_size == 16
    assert settings.log_level == "warning"
    assert settings.registered_model == "digits"


def test_overrides_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("TFPIPE_SERVING_PORT", "9000")
    monkeypatch.setenv("TFPIPE_REGISTERED_MODEL", "digits")

    settings = read_settings({"port": "9001", "registered_model": "letters"})

    assert (settings.port, settings.registered_model) == (9001, "letters")


def test_an_empty_value_counts_as_unset(monkeypatch):
    monkeypatch.setenv("TFPIPE_SERVING_THREADS", "")
    monkeypatch.setenv("TFPIPE_SERVING_PORT", "")

    assert (read_settings().threads, read_settings().port) == (None, 8000)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TFPIPE_SERVING_MAX_BATCHSIZE", "TFPIPE_SERVING_MAX_BATCH_SIZE"),
        ("TFPIPE_SERVING_MODLE", "TFPIPE_SERVING_MODEL"),
        ("TFPIPE_SERVING_", "TFPIPE_SERVING_"),
        ("tfpipe_serving_port", "TFPIPE_SERVING_PORT"),
        ("Tfpipe_Serving_Prot", "TFPIPE_SERVING_PORT"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(monkeypatch, name, nearest):
    monkeypatch.setenv(name, "1")

    with pytest.raises(ConfigError, match=rf"{name}: unknown setting. Did you mean {nearest}"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TFPIPE_SERVING_SERVICE_HOST", "10.0.0.1"),
        ("TFPIPE_SERVING_SERVICE_PORT", "8000"),
        ("TFPIPE_SERVING_SERVICE_PORT_HTTP", "8000"),
        ("TFPIPE_SERVING_PORT", "tcp://10.0.0.1:8000"),
        ("TFPIPE_SERVING_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("TFPIPE_SERVING_PORT_8000_TCP_PROTO", "tcp"),
        ("TFPIPE_SERVING_PORT_8000_TCP_PORT", "8000"),
        ("TFPIPE_SERVING_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("TFPIPE_SERVING_CANARY_SERVICE_HOST", "10.0.0.1"),
        ("TFPIPE_SERVING_CANARY_PORT", "tcp://10.0.0.1:8000"),
        ("TFPIPE_SERVING_CANARY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
    ],
)
def test_what_kubernetes_injects_is_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    assert read_settings().port == 8000


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("port", "-1", "expected greater than or equal to 0"),
        ("port", "65536", "expected less than or equal to 65535"),
        ("grpc_port", "-1", "expected greater than or equal to 0"),
        ("grpc_port", "65536", "expected less than or equal to 65535"),
        ("threads", "1025", "expected less than or equal to 1024"),
        ("max_queue_delay_ms", "-1", "expected greater than or equal to 0"),
        ("max_queue_rows", "0", "expected greater than or equal to 1"),
        ("drain_ms", "0", "expected greater than or equal to 1"),
        ("timeout_ms", "-5", "expected greater than or equal to 1"),
        ("drift_window_rows", "100001", "expected less than or equal to 100000"),
        ("cache_bytes", "-1", "expected greater than or equal to 0"),
        ("rate_limit", "0", "expected greater than 0"),
        ("rate_limit", "inf", "expected a finite number"),
    ],
)
def test_a_number_just_beyond_its_bound_is_refused_with_the_bound(field, value, sentence):
    with pytest.raises(ConfigError) as caught:
        read_settings({field: value})

    assert str(caught.value) == f"settings: TFPIPE_SERVING_{field.upper()}: {sentence}, received {value!r}."


def test_one_port_is_not_for_two_protocols():
    sentence = r"TFPIPE_SERVING_GRPC_PORT: expected another port than TFPIPE_SERVING_PORT's, received 8000\.$"

    with pytest.raises(ConfigError, match=sentence):
        read_settings({"grpc_port": "8000"})
    # Any free one, twice.
    assert read_settings({"port": "0", "grpc_port": "0"}).grpc_port == 0


def test_all_problems_are_said_at_once(monkeypatch):
    monkeypatch.setenv("TFPIPE_SERVING_PORT", "high")
    monkeypatch.setenv("TFPIPE_SERVING_THREADS", "0")
    monkeypatch.setenv("TFPIPE_SERVING_DRAIN", "5")

    with pytest.raises(ConfigError) as caught:
        read_settings({"log_level": "loud"})

    message = str(caught.value)
    assert "TFPIPE_SERVING_PORT: expected a valid integer" in message
    assert "received 'high'" in message
    assert "TFPIPE_SERVING_THREADS: expected greater than or equal to 1, received '0'" in message
    assert "TFPIPE_SERVING_DRAIN: unknown setting. Did you mean TFPIPE_SERVING_DRAIN_MS?" in message
    assert "TFPIPE_SERVING_LOG_LEVEL: expected 'debug', 'info', 'warning' or 'error', received 'loud'" in message


def test_the_providers_are_those_that_a_session_knows():
    choices = next(kind for name, kind, *_ in documented_settings() if name.endswith("PROVIDER"))

    with pytest.raises(ConfigError, match=f"expected one of {choices}; received"):
        open_session(b"", provider="unheard-of")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    port=st.integers(0, 65535),
    threads=st.none() | st.integers(1, 64),
    provider=st.sampled_from(["auto", "cpu", "openvino", "cuda", "tensorrt"]),
    limits=st.lists(st.integers(1, 2**40), min_size=3, max_size=3),
)
def test_any_valid_values_are_taken_as_they_are(port, threads, provider, limits):
    values = {
        "port": port,
        "threads": threads,
        "provider": provider,
        "max_body_bytes": limits[0],
        "max_image_pixels": limits[1],
        "drain_ms": limits[2],
    }

    settings = read_settings({name: str(value) for name, value in values.items() if value is not None})

    assert {name: getattr(settings, name) for name in values} == values
