import ssl

import httpx
import pytest

from serving.tls import TlsFiles, tls_files
from tests.serving.certificates import make_pair
from tests.serving.servers import process, wait_for
from tfpipe.core.errors import ConfigError


def test_a_pair_is_taken(tmp_path):
    assert tls_files(*make_pair(tmp_path)) == TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_without_files_there_is_no_tls():
    assert tls_files(None, None) is None


def test_one_without_the_other_is_refused(tmp_path):
    cert, key = make_pair(tmp_path)

    with pytest.raises(ConfigError, match=r"TLS_CERT_FILE alone. Set TFPIPE_SERVING_TLS_KEY_FILE, or neither"):
        tls_files(cert, None)
    with pytest.raises(ConfigError, match=r"TLS_KEY_FILE alone. Set TFPIPE_SERVING_TLS_CERT_FILE, or neither"):
        tls_files(None, key)


def test_a_file_that_is_missing_is_named(tmp_path):
    cert, key = make_pair(tmp_path)

    with pytest.raises(ConfigError, match=r"TLS_CERT_FILE: .*absent: No such file or directory"):
        tls_files(tmp_path / "absent", key)
    with pytest.raises(ConfigError, match=r"TLS_KEY_FILE: .*absent: No such file or directory"):
        tls_files(cert, tmp_path / "absent")


def test_a_key_of_another_certificate_is_refused(tmp_path):
    cert, _ = make_pair(tmp_path, "one")
    _, key = make_pair(tmp_path, "two")

    with pytest.raises(ConfigError, match=r"TLS_KEY_FILE: expected the private key of .*one.crt, .* \(.*two.key\)"):
        tls_files(cert, key)


@pytest.mark.parametrize(
    ("days", "said"), [((-30, -1), "certificate has expired"), ((1, 30), "certificate is not yet valid")]
)
def test_a_certificate_that_is_not_valid_today_is_refused(tmp_path, days, said):
    with pytest.raises(ConfigError, match=f"TLS_CERT_FILE: expected a certificate that is valid today; .*: {said}"):
        tls_files(*make_pair(tmp_path, days=days))


def test_a_file_that_is_no_pem_is_named(tmp_path):
    cert, key = make_pair(tmp_path)

    with pytest.raises(ConfigError, match=r"TLS_CERT_FILE: expected PEM with -----BEGIN ...CERTIFICATE-----"):
        tls_files(key, cert)
    with pytest.raises(ConfigError, match=r"TLS_KEY_FILE: expected PEM with -----BEGIN ...PRIVATE KEY-----"):
        tls_files(cert, cert)


def test_a_damaged_certificate_is_refused(tmp_path):
    cert, key = make_pair(tmp_path)
    cert.write_text("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")

    with pytest.raises(ConfigError, match=r"TLS: expected a certificate and its key, but .* cannot be used"):
        tls_files(cert, key)


def test_nobody_is_asked_for_a_password(tmp_path):
    with pytest.raises(ConfigError, match=r"TLS_KEY_FILE: expected a private key without a password"):
        tls_files(*make_pair(tmp_path, password=b"secret"))


def test_the_service_speaks_https_with_the_certificate(tmp_path, bundle):
    cert, key = make_pair(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))

    with process(model=str(bundle), tls_cert_file=str(cert), tls_key_file=str(key)) as service:
        url = service.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=trust) as client:
            wait_for(lambda: client.get("/health").status_code == 200)
            assert client.get("/health/live").json() == {"status": "live"}
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http") + "/health/live")


def test_a_service_whose_certificate_expired_does_not_start(tmp_path, bundle):
    cert, key = make_pair(tmp_path, days=(-30, -1))

    with process(model=str(bundle), tls_cert_file=str(cert), tls_key_file=str(key)) as service:
        assert service.wait() == 2
        assert "certificate has expired" in "".join(service.lines)
