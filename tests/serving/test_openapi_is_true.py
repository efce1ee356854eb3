"""What the OpenAPI document says of the service holds: schemathesis asks whatever it allows, and what it does not."""

import subprocess
import sys

import pytest

from serving.keys_command import create_key
from tests.serving.servers import Server, app_of, serving

pytestmark = pytest.mark.slow

_PATIENCE_S = 300


def findings(server: Server, *arguments: str) -> str:
    """What schemathesis wrote, where it found something; "" where it did not."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json",
        "--max-examples", "20", "--seed", "1", "--no-color", *arguments,
        # To the schema any bytes are a file, and only pictures are answered.
        "--exclude-checks", "positive_data_acceptance",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


# Without keys nobody administers, whatever the method.
NOT_ADMINISTRATION = ("--exclude-path-regex", "^/(admin|v2/repository/models)")


def test_of_a_service_of_images(bundle):
    with serving(app_of(bundle)) as server:
        assert not findings(server, *NOT_ADMINISTRATION)
        assert server.client.get("/health").status_code == 200


def test_of_a_service_of_texts(text_bundle):
    with serving(app_of(text_bundle)) as server:
        assert not findings(server, *NOT_ADMINISTRATION)
        assert server.client.get("/health").status_code == 200


def test_of_a_service_with_keys(bundle, tmp_path):
    keys = tmp_path / "keys.yaml"
    key = create_key(keys, {"name": "tester", "scopes": ["predict", "admin"]})

    with serving(app_of(bundle, api_keys_file=keys)) as server:
        assert not findings(server, "--header", f"Authorization: Bearer {key}")
        paths = server.client.get("/openapi.json").json()["paths"]

    assert paths["/predict"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in paths["/health"]["get"]
