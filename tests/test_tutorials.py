"""The tutorials, word by word, in an empty folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_commands import ROOT, script

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# A service that a failed command leaves behind ends with the shell.
PREAMBLE = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"


@pytest.mark.parametrize("subject", ["images", "texts"])
def test_a_tutorial_ends_in_answers(subject, tmp_path):
    port = free_port()
    typed = script(ROOT / "docs" / f"tutorial-{subject}.md").replace(":8000", f":{port}")
    # A request that is refused ends the program, as any other command that fails.
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(("TFPIPE_", "MLFLOW_"))}

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", PREAMBLE + typed],
        cwd=tmp_path,
        env={
            **inherited, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "TFPIPE_SERVING_PORT": port,
            "CURL_HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"latency_ms"') >= 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
