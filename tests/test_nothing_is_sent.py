import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["tfpipe.ort", "serving.app", "tfpipe.convert.measure"])
def test_onnx_runtime_tells_nobody_what_it_runs(module, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}

    subprocess.run(
        [sys.executable, "-c", f"import {module}, onnxruntime; onnxruntime.SessionOptions()"],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )

    # Its identifier of this machine, and what is to be sent.
    assert not (tmp_path / ".cache" / "Microsoft").exists()
