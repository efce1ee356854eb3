#!/usr/bin/env bash
# Makes .venvs/peers and .venvs/peers-mlserver: other inference servers (FastAPI alone, LitServe, BentoML, Ray Serve; MLServer), which the benchmarks
# of the service are measured beside. MLServer wants an older FastAPI than the others. Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/peers_env.sh     another interpreter than python3 (3.11 or 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
for name in peers peers-mlserver; do
  # The folder's own name: programs in it begin with the path of their interpreter, and .venvs may be a link.
  mkdir -p .venvs
  environment=$(cd .venvs && pwd -P)/$name
  # What it was made from; equal means there is nothing to do.
  stamp=$( { cat "constraints/$name.txt" "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
    echo "[peers] environment .venvs/$name is up to date"
    continue
  fi

  echo "[peers] making .venvs/$name with $("$python" --version)"
  "$python" -m venv --clear "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "constraints/$name.txt"
  echo "$stamp" > "$environment/.tfpipe-setup"
  echo "[peers] done: .venvs/$name"
done
