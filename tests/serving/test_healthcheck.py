"""What HEALTHCHECK of the image runs, against real services."""

import httpx
import pytest

from serving.healthcheck import address, main
from serving.settings import read_settings, variable_of
from tests.serving.certificates import make_pair
from tests.serving.servers import app_of, process, serving, wait_for


def test_a_service_that_is_ready_is_healthy(bundle):
    with serving(app_of(bundle)) as server:
        code = main({"TFPIPE_SERVING_PORT": str(server.port), "TFPIPE_SERVING_HOST": "0.0.0.0"})

    assert code == 0


def test_one_that_loads_is_not(slow_bundle, capsys):
    with process("--model", str(slow_bundle)) as started:
        code = main({"TFPIPE_SERVING_PORT": started.url.rpartition(":")[2]})

    assert code == 1
    assert '"status":"loading"' in capsys.readouterr().out


def test_none_is_not(capsys):
    assert main({"TFPIPE_SERVING_HOST": "127.0.0.1", "TFPIPE_SERVING_PORT": "1"}) == 1
    assert "127.0.0.1:1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables", [{}, {"TFPIPE_SERVING_PORT": "tcp://10.0.0.1:9000"}, {"TFPIPE_SERVING_PORT": "9000"}]
)
def test_it_asks_where_a_service_of_the_same_variables_listens(monkeypatch, variables):
    for name in ("TFPIPE_SERVING_HOST", "TFPIPE_SERVING_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()

    assert address(variables) == (settings.host, settings.port)


def test_https_is_asked_whatever_the_certificates_name_is(bundle, tmp_path):
    cert, key = make_pair(tmp_path)
    with process("--model", str(bundle), tls_cert_file=str(cert), tls_key_file=str(key)) as started:
        wait_for(lambda: httpx.get(f"{started.url}/health", verify=False).status_code == 200)
        code = main({"TFPIPE_SERVING_PORT": started.url.rpartition(":")[2], "TFPIPE_SERVING_TLS_CERT_FILE": str(cert)})

    assert code == 0


@pytest.mark.parametrize("name", ["host", "port", "tls_cert_file"])
def test_it_reads_the_settings_by_their_names(name):
    assert variable_of(name) in main.__code__.co_consts + address.__code__.co_consts
