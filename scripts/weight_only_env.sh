#!/usr/bin/env bash
# Makes .venvs/weight-only: ONNX Runtime's quantiser for 4-bit and 8-bit weights, which conversion.weight_only runs there.
# An environment of its own, as it wants a newer onnx than can be imported beside TensorFlow.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/weight_only_env.sh     another interpreter than python3 (3.11 or newer)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

check() {
  "$1" -I tfpipe/convert/weight_only_worker.py check
}

own_environment weight-only check
