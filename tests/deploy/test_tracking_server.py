"""MLflow as the stack runs it, on PostgreSQL and an S3-compatible store: as processes, where no image can be had."""

import contextlib
import getpass
import os
import pwd
import signal
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.test_compose import FILE
from tests.deploy.tools import ROOT
from tests.deploy.troubles import free_address
from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import NO_TLS, process, wait_for
from tfpipe.registry import Registry
from tfpipe.store import connect

pytestmark = [pytest.mark.system, pytest.mark.slow]

_MLFLOW = ROOT / ".venvs" / "mlflow" / "bin"
_S3 = ROOT / ".venvs" / "dvc" / "bin" / "moto_server"
_START_S = 120.0
_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def started(command, is_up, **options):
    """A process and all that it starts, until the block ends; gives what ends it sooner."""
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, start_new_session=True, **options
        )

        def end():
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
                running.wait(30)

        def has_come_up():
            if running.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"{command[0]} ended: {log.read()[-2000:]}")
            return is_up()

        try:
            wait_for(has_come_up, patience_s=_START_S)
            yield end
        finally:
            end()


def answers(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, verify=NO_TLS).status_code < 500
    return False


@pytest.fixture(scope="module")
def postgres():
    """Address of an empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        pytest.skip("no PostgreSQL here; on Debian: apt-get install postgresql")
    folder = programs[-1].parent
    # It refuses to be run by root.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    host, port = free_address().split(":")
    with tempfile.TemporaryDirectory() as data:
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
        owner = {"user": user, "cwd": data}
        initdb = [folder / "initdb", "--pgdata", data, "--username", "mlflow", "--auth", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, **owner)
        server = [folder / "postgres", "-D", data, "-h", host, "-p", port, "-k", data]
        ready = [folder / "pg_isready", "--host", host, "--port", port, "--quiet"]
        with started(server, lambda: subprocess.run(ready, check=False).returncode == 0, **owner):
            subprocess.run(
                [folder / "createdb", "--host", host, "--port", port, "--username", "mlflow", "mlflow"], check=True
            )
            yield f"postgresql+psycopg2://mlflow@{host}:{port}/mlflow"


@pytest.fixture(scope="module")
def s3():
    """Address of an S3-compatible store with nothing in it."""
    if not _S3.exists():
        pytest.skip("no S3 server here; scripts/dvc_env.sh makes an environment that has one")
    host, port = free_address().split(":")
    url = f"http://{host}:{port}"
    with started([_S3, "-H", host, "-p", port], lambda: answers(url)):
        yield url


@pytest.fixture(scope="module")
def mlflow(postgres, s3):
    """Its address, and what takes it away."""
    if not (_MLFLOW / "mlflow").exists():
        pytest.skip("no MLflow server here; scripts/mlflow_env.sh makes an environment that has one")
    services = yaml.safe_load(FILE.read_text())["services"]
    environment = {**os.environ, **_KEYS, "MLFLOW_S3_ENDPOINT_URL": s3, "MLFLOW_BACKEND_STORE_URI": postgres}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    (make_bucket,) = services["bucket"]["command"]
    subprocess.run([_MLFLOW / "python", "-c", make_bucket], env=environment, check=True)
    # As the stack starts it, but for its address.
    address = free_address()
    host, port = address.split(":")
    changed = {"--host": host, "--port": port, "--allowed-hosts": address}
    command = [
        f"{name}={changed.get(name, value)}" if value else name
        for name, _, value in (part.partition("=") for part in services["mlflow"]["command"])
    ]
    url = f"http://{address}"
    with started([_MLFLOW / "mlflow", *command], lambda: answers(f"{url}/health"), env=environment) as end:
        yield url, end


def test_a_model_that_was_registered_there_is_served_also_while_it_is_away(mlflow, s3, tmp_path, monkeypatch):
    url, take_away = mlflow
    for name in _KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    _register(url, tmp_path)
    settings = {"cache_dir": str(tmp_path / "cache"), "registry_wait_ms": "1000"}

    with process("--registered-model", "colours", **settings) as service:
        answer = _asked(service)
    take_away()
    with process("--registered-model", "colours", **settings) as service:
        again = _asked(service)
        messages = [event["message"] for event in service.events()]

    assert (answer["model_name"], answer["model_version"]) == ("colours", "1")
    assert "model.int8.onnx" in httpx.get(f"{s3}/mlflow").text
    assert again["bundle"] == answer["bundle"]
    assert "served from the cache, as the registry is away" in messages


def _register(url, folder):
    client = connect(url)
    trained = folder / "trained"
    (trained / "calibration").mkdir(parents=True)
    for name in ("config.yaml", "model.keras", "model.json", "validation.json", "calibration/0000.jpg"):
        (trained / name).write_text(name)
    registry = Registry(url)
    run = client.create_run(client.create_experiment("runs")).info.run_id
    metadata = {"created": "2026-01-01T00:00:00+00:00", "metrics": {}}
    version = registry.register("colours", run_id=run, folder=trained, metadata=metadata)
    registry.attach_bundle(version, make_bundle(folder / "bundle", version=version.version))


def _asked(service):
    wait_for(service.is_ready)
    return service.post("/predict", content=RED).json()
