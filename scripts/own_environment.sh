# shellcheck shell=bash
# Sourced by the scripts that make an environment in .venvs, apart from .venv, whose pins would not agree with theirs.
#
#   own_environment NAME [FINISH]   makes .venvs/NAME from constraints/NAME.txt, unless it was made from the same before;
#                                   FINISH is called with its Python once the packages are there
#
# PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

own_environment() {
  local name=$1 finish=${2:-true} python=${PYTHON:-python3} environment stamp uv
  # The folder's own name: programs in it begin with the path of their interpreter, and .venvs may be a link.
  mkdir -p .venvs
  environment=$(cd .venvs && pwd -P)/$name
  # What it was made from; equal means there is nothing to do.
  stamp=$( { cat "constraints/$name.txt" "${BASH_SOURCE[@]}"; "$python" --version; } | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
    echo "[$name] environment .venvs/$name is up to date"
    return
  fi

  echo "[$name] making .venvs/$name with $("$python" --version)"
  "$python" -m venv --clear "$environment"
  # `make setup` leaves it there where the machine has none; it is several times as fast as pip.
  uv=$(command -v uv || echo .tools/bin/uv)
  if [ -x "$uv" ]; then
    "$uv" pip install --quiet --python "$environment/bin/python" --requirement "constraints/$name.txt"
  else
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "constraints/$name.txt"
  fi
  "$finish" "$environment/bin/python"
  echo "$stamp" > "$environment/.tfpipe-setup"
  echo "[$name] done: .venvs/$name"
}
