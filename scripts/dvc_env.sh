#!/usr/bin/env bash
# Makes .venvs/dvc: DVC with its S3 remote, and an S3 server on this machine to try it on (moto_server).
# An environment of its own, as DVC's libraries are not those that training is pinned to. See docs/data-versions.md.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/dvc_env.sh     another interpreter than python3 (3.11 or newer)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

# DVC is started once a stage; what it imports is compiled once.
compile_all() {
  "$1" -m compileall -qq -j 0 "$(dirname "$1")/../lib" || true
}

own_environment dvc compile_all
