#!/usr/bin/env bash
# Makes .venvs/peers and .venvs/peers-mlserver: other inference servers (FastAPI alone, LitServe, BentoML, Ray Serve; MLServer), which the benchmarks
# of the service are measured beside. MLServer wants an older FastAPI than the others. Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/peers_env.sh     another interpreter than python3 (3.11 or 3.12)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

own_environment peers
own_environment peers-mlserver
