"""`python -m serving.healthcheck`: whether the service in this container is ready; for HEALTHCHECK of its image.

An image need hold no curl for it. Imports next to nothing, as it is run again and again beside the service.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

_TIMEOUT_S = 4.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Ask `/health` of the service that is configured by the same variables; gives the exit code, 0 when ready."""
    connection = _connection(*address(environ), https=bool(environ.get("TFPIPE_SERVING_TLS_CERT_FILE")))
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        sys.stdout.write(response.read(1000).decode(errors="replace") + "\n")
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"healthcheck: {connection.host}:{connection.port}: {error}\n")
        return 1
    return 0 if response.status == 200 else 1


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port at which a service that these variables configure is asked."""
    host = environ.get("TFPIPE_SERVING_HOST", "127.0.0.1")
    port = environ.get("TFPIPE_SERVING_PORT", "")
    # What is no number was injected by Kubernetes, and leaves the service at its default too.
    return _EVERYWHERE.get(host, host), int(port) if port.isdecimal() else 8000


def _connection(host: str, port: int, *, https: bool) -> http.client.HTTPConnection:
    if not https:
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    context = ssl.create_default_context()
    # The certificate is made out to the name by which others ask.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


if __name__ == "__main__":
    sys.exit(main())
