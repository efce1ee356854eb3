#!/usr/bin/env bash
# Makes .venvs/weight-only: ONNX Runtime's quantiser for 4-bit and 8-bit weights, which conversion.weight_only runs there.
# An environment of its own, as it wants a newer onnx than can be imported beside TensorFlow.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/weight_only_env.sh     another interpreter than python3 (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=.venvs/weight-only
# What it was made from; equal means there is nothing to do.
stamp=$( { cat constraints/weight-only.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
  echo "[weight-only] environment $environment is up to date"
  exit 0
fi

echo "[weight-only] making $environment with $("$python" --version)"
"$python" -m venv --clear "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement constraints/weight-only.txt
"$environment/bin/python" -I tfpipe/convert/weight_only_worker.py check
echo "$stamp" > "$environment/.tfpipe-setup"
echo "[weight-only] done: $environment/bin/python"
