#!/usr/bin/env bash
# Makes .venvs/triton: NVIDIA Triton's server with its Python backend, its client, and what an exported model answers with.
# An environment of its own, as it wants NumPy 1. For tests/targets/test_triton.py, which are left out where it is missing.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/triton_env.sh     another interpreter than python3 (3.11 or 3.12)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

# The backend looks for its stub beside itself; the wheel has one for each version of Python.
put_stub() {
  "$1" - <<'PYTHON'
import pathlib, shutil, sys, sysconfig

server = pathlib.Path(sysconfig.get_paths()["purelib"]) / "pytriton/tritonserver"
stub = server / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
shutil.copy2(stub, server / "backends/python/triton_python_backend_stub")
PYTHON
}

own_environment triton put_stub
