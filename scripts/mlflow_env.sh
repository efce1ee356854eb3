#!/usr/bin/env bash
# Makes .venvs/mlflow: MLflow's server with the clients of PostgreSQL and S3, as the image `mlflow` of the Dockerfile has it.
# An environment of its own, as S3's client wants an older python-dateutil than training is pinned to.
# For tests/deploy/test_tracking_server.py, which is left out where it is missing. Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/mlflow_env.sh     another interpreter than python3 (3.11 or newer)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

own_environment mlflow
