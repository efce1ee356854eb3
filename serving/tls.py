"""HTTPS by configuration: a pair of certificate and key, proved before it is used."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.core.errors import ConfigError

logger = logging.getLogger(__name__)

_CERT, _KEY = "TFPIPE_SERVING_TLS_CERT_FILE", "TFPIPE_SERVING_TLS_KEY_FILE"


@dataclass(frozen=True)
class TlsFiles:
    """The two files.

    Attributes:
        cert: Certificate in PEM, those that signed it after it.
        key: Its private key in PEM.
    """

    cert: Path
    key: Path


def tls_files(cert: Path | None, key: Path | None) -> TlsFiles | None:
    """The files of the settings, proved to work; None where HTTP was asked for.

    Raises:
        ConfigError: One without the other, a file that is missing or no PEM, a pair that does not belong together, or a
            certificate that is not valid today.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing, given = (_CERT, _KEY) if cert is None else (_KEY, _CERT)
        raise ConfigError(f"TLS: expected {_CERT} and {_KEY}, received {given} alone. Set {missing}, or neither.")
    files = TlsFiles(cert, key)
    expires = _prove(files)
    logger.info("TLS", extra={"fields": {"certificate": str(cert), "expires": expires}})
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that offers the certificate: TLS 1.2 and later.

    Raises:
        ConfigError: The files cannot be used.
    """
    for setting, path in ((_CERT, files.cert), (_KEY, files.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{setting}: expected a file that can be read; {path}: {error.strerror}.") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # The password is asked of nobody: a service that starts by itself would wait for ever.
        context.load_cert_chain(files.cert, files.key, password=_refuse_password)
    except ssl.SSLError as error:
        raise ConfigError(_explained(error, files)) from error
    return context


def _refuse_password() -> str:
    raise ConfigError(f"{_KEY}: expected a private key without a password, received an encrypted one.")


def _explained(error: ssl.SSLError, files: TlsFiles) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{_KEY}: expected the private key of {files.cert}, received that of another ({files.key})."
    # OpenSSL does not say which of the two it could not read.
    for setting, path, marker in ((_CERT, files.cert, b"CERTIFICATE-----"), (_KEY, files.key, b"PRIVATE KEY-----")):
        if marker not in path.read_bytes():
            return f"{setting}: expected PEM with -----BEGIN ...{marker.decode()}, received a file without ({path})."
    return f"TLS: expected a certificate and its key, but {files.cert} and {files.key} cannot be used: {error.reason}."


def _prove(files: TlsFiles) -> str:
    """Shake hands with ourselves, as a client would that trusts just this certificate; tells when it expires."""
    server = server_context(files)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(files.cert)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        # Hello, answer with the certificate, finished: the client has checked it after its second turn.
        for end in (*ends, *ends):
            _turn(end.do_handshake)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{_CERT}: expected a certificate that is valid today; {files.cert}: {error.verify_message}."
        ) from error
    certificate: dict[str, Any] = ends[0].getpeercert() or {}
    return str(certificate["notAfter"])


def _turn(handshake: Callable[[], None]) -> None:
    try:
        handshake()
    except ssl.SSLWantReadError:
        return
