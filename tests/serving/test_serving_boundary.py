"""The service needs nothing of the training stack."""

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "horovod", "tf2onnx", "onnx", "sklearn", "matplotlib", "omegaconf")
MODULES = ("serving.app", "serving.__main__")


@pytest.mark.parametrize("module", [*MODULES, "tfpipe.registry"])
def test_imports_where_the_training_stack_is_missing(module):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import {module}"

    subprocess.run([sys.executable, "-c", blocked], check=True)


def test_of_tfpipe_only_the_core_the_decoder_and_the_session_are_imported():
    script = "import sys, serving.__main__; print(*sys.modules)"

    listed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    modules = {name for name in listed.split() if name.startswith("tfpipe.") and not name.startswith("tfpipe.core")}
    assert modules == {"tfpipe.decode", "tfpipe.ort"}


def test_mlflow_is_imported_only_for_a_registered_model():
    script = "import sys, serving.__main__; sys.exit('mlflow' in sys.modules)"

    subprocess.run([sys.executable, "-c", script], check=True)
