#!/usr/bin/env bash
# Makes .venvs/dvc: DVC with its S3 remote, and an S3 server on this machine to try it on (moto_server).
# An environment of its own, as DVC's libraries are not those that training is pinned to. See docs/data-versions.md.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/dvc_env.sh     another interpreter than python3 (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=.venvs/dvc
# What it was made from; equal means there is nothing to do.
stamp=$( { cat constraints/dvc.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
  echo "[dvc] environment $environment is up to date"
  exit 0
fi

echo "[dvc] making $environment with $("$python" --version)"
"$python" -m venv --clear "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement constraints/dvc.txt
# DVC is started once a stage; what it imports is compiled once.
"$environment/bin/python" -m compileall -qq -j 0 "$environment/lib" || true
echo "$stamp" > "$environment/.tfpipe-setup"
echo "[dvc] done: $environment/bin/dvc"
