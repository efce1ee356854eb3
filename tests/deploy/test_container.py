"""The image of the service, built and run: read-only, as a plain user, stopped under load."""

import collections
import shutil
import threading

import httpx
import pytest

from tests.deploy.containers import new_engine, wait_until
from tests.deploy.troubles import free_address
from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import NO_TLS

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(2400)]

_CLIENTS = 8


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("containers")
    # A user of a container must be able to reach what is mounted.
    folder.chmod(0o711)
    engine = new_engine(folder)
    engine.make_base()
    yield engine
    engine.forget_images()


@pytest.fixture(scope="module")
def image(engine):
    return engine.build("serve")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "colours")


@pytest.fixture
def service(engine, image, bundle):
    """The service on a read-only root, and where it listens."""
    host, port = free_address().split(":")
    settings = {"HOST": host, "PORT": port, "MODEL": "/bundle", "REGISTRY_WAIT_MS": "1000"}
    options = [part for name, value in settings.items() for part in ("--env", f"TFPIPE_SERVING_{name}={value}")]
    options += ["--read-only", "--cap-drop", "ALL", "--volume", f"{bundle}:/bundle:ro"]
    with engine.running(image, *options) as container:
        url = f"http://{host}:{port}"
        wait_until(lambda: _status(url) == 200)
        yield container, url


def _status(url):
    try:
        return httpx.get(f"{url}/health", verify=NO_TLS).status_code
    except httpx.TransportError:
        return None


def test_the_image_is_small_and_says_what_it_is(engine, image):
    known = engine.inspect(image)

    config = known["Config"]
    assert known["Size"] < 450e6
    assert config["User"] == "10001:0"
    assert config["Entrypoint"] == ["python", "-m", "serving"]
    assert "TFPIPE_SERVING_HOST=0.0.0.0" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_holds_no_tensorflow_no_compiler_and_no_installer(service):
    container, _ = service
    program = (
        "import importlib.util as u, shutil as s; "
        "print([n for n in ('tensorflow', 'keras', 'horovod', 'onnx', 'pip') if u.find_spec(n)], "
        "[n for n in ('gcc', 'cc', 'g++', 'pip', 'uv') if s.which(n)])"
    )

    assert container.execute("python", "-c", program).stdout.strip() == "[] []"


def test_it_answers_and_says_that_it_is_healthy(service):
    container, url = service

    answer = httpx.post(f"{url}/predict", content=RED).json()

    assert answer["predictions"][0]["label"] == "red"
    assert container.execute("python", "-m", "serving.healthcheck").returncode == 0
    assert container.execute("id", "-u").stdout.strip() == "10001"
    assert container.execute("touch", "/opt/tfpipe/x").returncode != 0
    assert container.execute("touch", "/var/cache/tfpipe/x").returncode == 0


def test_stopped_under_load_it_answers_everybody(service):
    container, url = service
    answers = collections.Counter()
    clients = [threading.Thread(target=_ask_until_told, args=(url, answers)) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: answers[200] > 20 * _CLIENTS)

    container.stop()
    code = container.wait()

    for client in clients:
        client.join(60)
    assert code == 0
    # One refusal each; nobody's request was left without an answer.
    assert dict(answers) == {200: answers[200], 503: _CLIENTS}


def _ask_until_told(url, answers):
    """Ask, until told that the service goes."""
    with httpx.Client(timeout=60) as client:
        status = 200
        while status == 200:
            try:
                status = client.post(f"{url}/predict", content=RED).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            answers[status] += 1


@pytest.fixture
def failure(engine, image):
    """Exit code of a service that does not start, and what it says beside its log."""

    def failure(*options):
        with engine.running(image, "--env", "TFPIPE_SERVING_PORT=0", "--read-only", *options) as container:
            code = container.wait()
            return code, [line for line in container.logs.splitlines() if not line.startswith("{")]

    return failure


@pytest.mark.parametrize("user", ["10001:0", "4711:4711"])
def test_a_cache_that_its_user_may_not_write_is_a_sentence_and_exit_code_2(failure, tmp_path, user):
    (tmp_path / "cache").mkdir(mode=0o750)

    code, said = failure(
        "--user", user, "--volume", f"{tmp_path}/cache:/var/cache/tfpipe",
        "--env", "TFPIPE_SERVING_MODEL=models:/digits@champion",
    )  # fmt: skip

    assert code == 2
    assert said == [
        "serving: TFPIPE_SERVING_CACHE_DIR: expected a folder that can be written, "
        "but '/var/cache/tfpipe': Permission denied."
    ]


def test_a_bundle_that_its_user_may_not_read_is_a_sentence_and_exit_code_2(failure, bundle, tmp_path):
    private = tmp_path / "bundle"
    shutil.copytree(bundle, private)
    (private / "model.int8.onnx").chmod(0o600)

    code, said = failure("--volume", f"{private}:/bundle:ro", "--env", "TFPIPE_SERVING_MODEL=/bundle")

    assert code == 2
    assert said == ["serving: /bundle/model.int8.onnx: expected a bundle that can be read; Permission denied."]
