"""DVC itself on a repository of its own, and an S3 server for its store, from the environment of scripts/dvc_env.sh."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.commands import ROOT

ENVIRONMENT = ROOT / ".venvs" / "dvc"
# What a repository of DVC's needs of this one.
FILES = ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
_PATIENCE_S = 120.0


def is_installed() -> bool:
    return (ENVIRONMENT / ".tfpipe-setup").is_file()


class Repository:
    """A git repository with this one's stages and settings, DVC initialised.

    Args:
        folder: Made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in FILES:
            (folder / name).write_bytes((ROOT / name).read_bytes())
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self("init", "--quiet")

    def __call__(self, *arguments: str, expected: int = 0) -> str:
        """Run `dvc ...`; what it and the stages wrote. AssertionError where it ends otherwise than expected."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TFPIPE_", "MLFLOW_", "AWS_"))
        }
        own = str(self.folder / ".dvc" / "tmp")
        environment = {
            **kept,
            # `python` of a stage is that of the tests.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": own, "DVC_GLOBAL_CONFIG_DIR": own, "DVC_SYSTEM_CONFIG_DIR": own,
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        command = [str(ENVIRONMENT / "bin" / "dvc"), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=1100, check=False
        )
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr

    def outputs(self, stage: str) -> dict[str, str]:
        """What dvc.lock says of a stage: hash by path."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {entry["path"]: entry["md5"] for entry in lock["stages"][stage]["outs"]}


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of an S3 server on 127.0.0.1 with a bucket `data`, empty, in memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(log, "wb") as written:
        command = [str(ENVIRONMENT / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _has_bucket(f"http://127.0.0.1:{port}/data"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(timeout=10)


def _has_bucket(address: str) -> bool:
    request = urllib.request.Request(address, method="PUT", headers={"Authorization": "AWS4-HMAC-SHA256 /s3/"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
