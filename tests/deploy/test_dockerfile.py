"""What holds of the images before one is built."""

import re
import tomllib

import pytest

from serving.settings import ServingSettings
from tests.deploy.tools import ROOT, run_tool

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGES = ("serve", "serve-gpu", "train", "mlflow")
# Instructions of each stage, by its name; a line that goes on is one.
STAGES = {
    re.match(r"\S+ AS (\S+)", text)[1]: text
    for text in re.split(r"^FROM ", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)[1:]
}


def instructions(stage, name):
    return re.findall(rf"^{name} (.*)$", STAGES[stage], flags=re.MULTILINE)


def test_hadolint_has_nothing_to_say():
    done = run_tool("hadolint", "--no-color", "Dockerfile")

    assert done.returncode == 0, done.stdout


def test_bases_are_named_by_version():
    images = re.findall(r"^ARG \w*IMAGE=(\S+)$", DOCKERFILE, flags=re.MULTILINE)

    assert images
    assert all(re.search(r":\d", image) or image == "${PYTHON_IMAGE}" for image in images), images
    assert {text.split()[0] for text in STAGES.values()} <= {
        "scratch", "${PYTHON_IMAGE}", "${SERVE_GPU_IMAGE}", "${TRAIN_IMAGE}", "${TRAIN_BUILD_IMAGE}",
    }  # fmt: skip


@pytest.mark.parametrize("image", IMAGES)
def test_each_image_starts_one_program_as_a_user_by_number(image):
    (entry_point,) = instructions(image, "ENTRYPOINT")
    (user,) = instructions(image, "USER")

    assert entry_point.startswith('["')
    assert re.fullmatch(r"[1-9]\d*:\d+", user)
    assert instructions(image, "HEALTHCHECK")
    assert "org.opencontainers.image.revision" in " ".join(instructions(image, "LABEL"))


def test_nothing_secret_is_asked_for_and_little_is_sent_to_the_builder():
    assert not re.search(r"(?i)\b(ARG|ENV) \S*(password|secret|token|key)", DOCKERFILE)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.mark.parametrize("image", ["serve", "serve-gpu"])
def test_what_serves_holds_no_compiler_and_nothing_that_trains(image):
    installed = " ".join(instructions(image, "RUN") + instructions(f"{image}-build", "RUN"))

    assert "--extra serve" in installed
    assert not re.search(r"--extra (train|convert|dev)|g\+\+|gcc|build-essential", installed)


def test_the_service_in_its_image_listens_writes_and_ends_as_it_is_told():
    [environment] = instructions("serve", "ENV")
    variables = dict(re.findall(r"(\w+)=(\S+)", environment))

    assert instructions("serve", "EXPOSE") == [str(ServingSettings(model="x").port)]
    assert variables["TFPIPE_SERVING_HOST"] == "0.0.0.0"
    assert [variables["TFPIPE_SERVING_CACHE_DIR"]] == instructions("serve", "VOLUME")
    assert instructions("serve", "STOPSIGNAL") == ["SIGTERM"]
    [check] = instructions("serve", "HEALTHCHECK")
    assert check.endswith('CMD ["python", "-m", "serving.healthcheck"]')
    assert instructions("serve", "ENTRYPOINT") == ['["python", "-m", "serving"]']


def test_the_tracking_server_is_asked_where_it_listens():
    [port] = instructions("mlflow", "EXPOSE")
    [check] = instructions("mlflow", "HEALTHCHECK")

    # MLflow's own default, which the command leaves as it is.
    assert port == "5000"
    assert f"http://127.0.0.1:{port}/health" in check
    assert instructions("mlflow", "CMD") == ['["server", "--host", "0.0.0.0"]']


@pytest.mark.parametrize(
    "name", ["ENV", "VOLUME", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"]
)
def test_both_images_of_the_service_run_it_alike(name):
    # A stage takes over such instructions from one base alone, and these two stand on different ones.
    on_cpus, on_gpus = (
        # The base of the one has its programs in its path; the other's stage has no base. CUDA takes its time to start.
        [re.sub(r"(PATH|--start-period)=\S+ ", r"\1 ", line) for line in instructions(image, name)]
        for image in ("serve", "serve-gpu")
    )

    assert on_cpus == on_gpus
    assert name == "CMD" or on_cpus


def test_both_images_of_the_service_keep_a_cache_that_group_0_may_write_to():
    on_cpus, on_gpus = (
        re.findall(r"(useradd .*?) && (install .*? /var/cache/tfpipe)", " ".join(STAGES[stage].split()))
        for stage in ("serve-root", "serve-gpu")
    )

    assert on_cpus == on_gpus
    assert "--gid 0 " in on_cpus[0][0]
    assert "--group 0 --mode 0770 " in on_cpus[0][1]


def test_packages_that_are_left_out_of_the_image_are_what_the_service_asks_for():
    left_out = [line.split("#")[0].strip() for line in _lines("serve-image-excludes.txt") if line[0] != "#"]
    pinned = {re.split("[=<> ;]", line)[0] for line in _lines("serve.txt")}

    assert set(left_out) <= pinned | {"watchfiles", "websockets"}
    assert not set(left_out) & set(_direct("serve"))


def _lines(name):
    return (ROOT / "constraints" / name).read_text().splitlines()


def _direct(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[\[=<>; ]", line)[0] for line in project["optional-dependencies"][extra]]
