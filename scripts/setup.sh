#!/usr/bin/env bash
# Makes .venv with everything that training, conversion, serving and the tests need. Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/setup.sh     another interpreter than python3 (3.11 or 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] %s\n' "$*" >&2; exit 2; }

supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" && { echo "$PYTHON"; return; }
    die "PYTHON=$PYTHON: expected Python 3.11 or 3.12, received $("$PYTHON" --version 2>&1 || echo 'nothing that runs')."
  fi
  for candidate in python3 python3.11 python3.12; do
    supported "$candidate" && { echo "$candidate"; return; }
  done
  die "expected Python 3.11 or 3.12, received $(python3 --version 2>&1 || echo 'no python3'). Install one, or name it: PYTHON=/path/to/python3.11 make setup."
}

python=$(find_python)
for tool in g++ cmake make; do
  command -v "$tool" >/dev/null || die "expected $tool on the PATH (Horovod is compiled here), found none. On Debian: apt-get install g++ cmake make."
done
"$python" -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())' \
  || die "expected Python.h for $("$python" --version) (Horovod is compiled here), found none. On Debian: apt-get install python3-dev."

# What .venv was made from; equal means there is nothing to do.
stamp=$( { cat pyproject.toml constraints/train.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ "$(cat .venv/.tfpipe-setup 2>/dev/null)" = "$stamp" ]; then
  say "environment .venv is up to date"
  exit 0
fi

if command -v uv >/dev/null; then
  uv=uv
else
  uv=.tools/bin/uv
  if [ ! -x "$uv" ]; then
    say "fetching the installer (uv) into .tools"
    "$python" -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv
  fi
fi

say "making .venv with $("$python" --version)"
[ -x .venv/bin/python ] && .venv/bin/python -c pass 2>/dev/null || "$uv" venv --quiet --clear --python "$python" .venv
say "installing tfpipe; compiling Horovod with Gloo (the first time about 4 minutes on 2 cores; again, seconds)"
"$uv" pip install --python .venv/bin/python --constraint constraints/train.txt --editable '.[train,horovod,convert,serve,dev,docs]'
.venv/bin/python -c 'import horovod.tensorflow as hvd; hvd.gloo_built() or exit("Horovod was built without Gloo")'
say "compiling what was installed"
# Where sources cannot or may not be compiled as they are imported, each start of a process would do it again: importing
# TensorFlow then takes 18 s of a core instead of 8, on a busy machine with two. Some packages hold files that are no
# Python, which are passed over.
.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
echo "$stamp" > .venv/.tfpipe-setup
say "done: .venv/bin/python, .venv/bin/tfpipe, .venv/bin/horovodrun"
