"""The programs that check what is deployed: those of scripts/deploy_env.sh, or of the machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_ENVIRONMENT = ROOT / ".venvs" / "deploy" / "bin"


def run_tool(name, *arguments, **options):
    """Run one of them in the project's folder; skips the test where there is none."""
    program = shutil.which(name, path=str(_ENVIRONMENT))
    if program is None:
        pytest.skip(f"{name} is not installed; scripts/deploy_env.sh makes an environment that has it")
    environment = {**os.environ, "PATH": f"{_ENVIRONMENT}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [program, *map(str, arguments)],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 120, "check": False}
        | options,
    )
