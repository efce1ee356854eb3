#!/usr/bin/env bash
# Makes .venvs/mlflow: MLflow's server with the clients of PostgreSQL and S3, as the image `mlflow` of the Dockerfile has it.
# An environment of its own, as S3's client wants an older python-dateutil than training is pinned to.
# For tests/deploy/test_tracking_server.py, which is left out where it is missing. Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/mlflow_env.sh     another interpreter than python3 (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=.venvs/mlflow
# What it was made from; equal means there is nothing to do.
stamp=$( { cat constraints/mlflow.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
  echo "[mlflow] environment $environment is up to date"
  exit 0
fi

echo "[mlflow] making $environment with $("$python" --version)"
uv=$(command -v uv || echo .tools/bin/uv)  # which `make setup` leaves there
"$uv" venv --quiet --clear --python "$python" "$environment"
"$uv" pip install --quiet --python "$environment/bin/python" --constraint constraints/mlflow.txt mlflow psycopg2-binary boto3
echo "$stamp" > "$environment/.tfpipe-setup"
echo "[mlflow] done: $environment/bin/mlflow"
