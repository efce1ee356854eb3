"""Images built and run by podman or docker, wherever one of them is.

podman keeps its state in a folder of its own. Where no registry of images can be reached, mmdebstrap makes the base
that the Dockerfile names, from Debian packages.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import ROOT

BASE = "docker.io/library/python:3.11-slim-bookworm"
# A company's own may be among them.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_S = 1200
_PACKAGES = "ca-certificates,tzdata,python3,python3-venv,python3-pip"
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Engine:
    """podman or docker.

    Args:
        program: Its path.
        folder: For podman's state.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.is_podman = Path(program).name == "podman"
        self._program, self._folder = program, folder
        self._environment = dict(os.environ)
        if self.is_podman:
            (folder / "containers.conf").write_text(_CONFIGURATION)
            storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
            (folder / "storage.conf").write_text(storage)
            self._environment |= {
                "CONTAINERS_CONF": str(folder / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
                "DISABLE_HC_SYSTEMD": "true",
            }

    def run(self, *arguments: str, timeout_s: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine."""
        done = subprocess.run(
            [self._program, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    def make_base(self) -> None:
        """Make the base from Debian's packages, where podman cannot have it otherwise."""
        if not self.is_podman or shutil.which("mmdebstrap") is None:
            return
        archive = self._folder / "base.tar"
        hook = (
            'rm -f "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED; rm -rf "$1"/var/lib/apt/lists/*; '
            'ln -s /usr/bin/python3 "$1"/usr/local/bin/python; ln -s /usr/bin/python3 "$1"/usr/local/bin/python3'
        )
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={_PACKAGES}"]
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
        subprocess.run(
            [*command, *excluded, f"--customize-hook={hook}", "bookworm", str(archive)],
            check=True,
            timeout=_BUILD_S,
            capture_output=True,
        )
        self.run("import", "--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                 str(archive), BASE)  # fmt: skip
        archive.unlink()

    def build(self, target: str) -> str:
        """Build one of the Dockerfile's images; gives its tag."""
        tag = f"tfpipe-{target}-test"
        options = ["--network", "host", "--target", target, "--tag", tag]
        if self.is_podman:
            options += ["--format", "docker"]
            if _CERTIFICATES.exists():
                options += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
        self.run("build", *options, str(ROOT), timeout_s=_BUILD_S)
        return tag

    def forget_images(self) -> None:
        """Let go of gigabytes: podman's state is ours alone; docker's is everybody's, and stays."""
        if self.is_podman:
            self.run("rmi", "--all", "--force", check=False)

    def inspect(self, image: str) -> dict[str, Any]:
        """What the engine knows of an image."""
        (known,) = json.loads(self.run("image", "inspect", image).stdout)
        return dict(known)

    @contextlib.contextmanager
    def running(self, image: str, *options: str) -> Iterator["Container"]:
        """A container in the background, removed when the block ends."""
        name = self.run("run", "--detach", "--network", "host", *options, image).stdout.strip()
        try:
            yield Container(self, name)
        finally:
            self.run("rm", "--force", "--volumes", name, check=False)


class Container:
    """One that was started."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name

    @property
    def logs(self) -> str:
        done = self._engine.run("logs", self._name)
        return done.stdout + done.stderr

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside of it."""
        return self._engine.run("exec", self._name, *command, check=False)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL 30 s later."""
        self._engine.run("stop", "--time", "30", self._name)

    def wait(self) -> int:
        """Exit code, once it has ended."""
        return int(self._engine.run("wait", self._name).stdout)


def new_engine(folder: Path) -> Engine:
    """podman where it is there, else docker; skips the test where neither works."""
    program = shutil.which("podman") or shutil.which("docker")
    if program is None:
        pytest.skip("neither podman nor docker is here; on Debian: apt-get install podman runc mmdebstrap")
    engine = Engine(program, folder)
    if engine.run("info", check=False).returncode != 0:
        pytest.skip(f"{program} is here but cannot be used: `{program} info` fails")
    if engine.is_podman and os.getuid() != 0:
        pytest.skip("the base image is made by root alone")
    return engine


def wait_until(condition: Any, *, patience_s: float = 60) -> None:
    """Poll until a condition holds."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"expected {condition} to hold within {patience_s} s"
        time.sleep(0.1)  # polls
