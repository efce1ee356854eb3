#!/usr/bin/env bash
# Makes .venvs/triton: NVIDIA Triton's server with its Python backend, its client, and what an exported model answers with.
# An environment of its own, as it wants NumPy 1. For tests/targets/test_triton.py, which are left out where it is missing.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/triton_env.sh     another interpreter than python3 (3.11 or 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=.venvs/triton
# What it was made from; equal means there is nothing to do.
stamp=$( { cat constraints/triton.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
  echo "[triton] environment $environment is up to date"
  exit 0
fi

echo "[triton] making $environment with $("$python" --version)"
"$python" -m venv --clear "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement constraints/triton.txt
# The backend looks for its stub beside itself; the wheel has one for each version of Python.
"$environment/bin/python" - <<'PYTHON'
import pathlib, shutil, sys, sysconfig

server = pathlib.Path(sysconfig.get_paths()["purelib"]) / "pytriton/tritonserver"
stub = server / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
shutil.copy2(stub, server / "backends/python/triton_python_backend_stub")
PYTHON
echo "$stamp" > "$environment/.tfpipe-setup"
echo "[triton] done: $environment/bin/python"
