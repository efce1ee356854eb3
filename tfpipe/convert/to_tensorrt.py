"""TF-TRT and TensorRT: says plainly what is missing."""

from typing import NoReturn

from tensorflow.compiler.tf2tensorrt._pywrap_py_utils import is_tensorrt_enabled

from tfpipe.core.errors import ConfigError


def refuse(backend: str) -> NoReturn:
    """Say why a backend cannot be used here.

    Raises:
        ConfigError: Always.
    """
    # Asked before anything else: get_loaded_tensorrt_version() aborts the process where TensorRT is missing.
    where = "TensorRT is here, but " if is_tensorrt_enabled() else "TensorRT cannot be loaded here, and "
    raise ConfigError(
        f"--backend {backend}: {where}this version of tfpipe converts with --backend onnx only; the service runs its "
        "bundles on ONNX Runtime's TensorRT provider."
    )
