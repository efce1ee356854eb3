"""What is asked of libraries, each in a process of its own: `python -m tfpipe.doctor.probes NAME [ARGUMENT]`.

A library may be missing, hang, or end the process with a signal; that is then the finding. Each probe prints one JSON
object as the last line of standard output. Nothing but the standard library is imported before a probe runs.
"""

import contextlib
import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


def tensorflow(_: str) -> Facts:
    """Versions of TensorFlow and Keras, the GPUs that TensorFlow sees, what it was built for."""
    import tensorflow as tf
    from tensorflow.compiler.tf2tensorrt._pywrap_py_utils import is_tensorrt_enabled

    build = tf.sysconfig.get_build_info()
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "version": tf.__version__,
        "cuda": build.get("cuda_version") if tf.test.is_built_with_cuda() else None,
        "gpus": [details.get("device_name", "GPU") for details in gpus],
        # Asked alone: get_loaded_tensorrt_version() aborts the process where TensorRT is missing.
        "tensorrt": is_tensorrt_enabled(),
        **_keras(),
    }


def horovod(_: str) -> Facts:
    """What Horovod was compiled with."""
    from tfpipe.distributed import horovod_build

    return horovod_build()


def allreduce(_: str) -> Facts:
    """Run on each of two workers: the sum of their ranks plus one."""
    import tensorflow as tf

    from tfpipe.distributed import join

    world = join()
    total = world.allreduce_sum([tf.constant(world.rank + 1.0)])[0]
    return {"rank": world.rank, "size": world.size, "sum": float(total)}


def onnxruntime(_: str) -> Facts:
    """Version and execution providers."""
    import onnxruntime

    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def tensorrt(_: str) -> Facts:
    """Version of the Python package."""
    try:
        return {"package": importlib.import_module("tensorrt").__version__}
    except ModuleNotFoundError:
        return {"package": None}


def gpus(_: str) -> Facts:
    """GPUs by NVIDIA's management library."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"gpus": [], "reason": str(error)}
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return {
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "gpus": [
            f"{pynvml.nvmlDeviceGetName(handle)}, {pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30:.0f} GiB"
            for handle in handles
        ],
    }


def store(uri: str) -> Facts:
    """Whether the MLflow store answers, can be written, and has the schema of the MLflow that is installed."""
    from tfpipe import store as mlflow_store

    address = mlflow_store.store_uri(uri or None)
    path = mlflow_store.sqlite_path(address)
    if path is not None and not path.exists():
        return {"uri": address, "exists": False, "writable": os.access(_existing(path.parent), os.W_OK)}
    facts: Facts = {"uri": address, "exists": True, "writable": None}
    if path is not None:
        facts |= _sqlite(path)
        if facts.get("problem") or facts["schema"] != facts["newest_schema"]:
            return facts
    try:
        experiments = mlflow_store.connect(address).search_experiments(max_results=1)
    except mlflow_store.VENDOR_ERRORS as error:
        return facts | {"problem": mlflow_store.reason(error)}
    return facts | {"experiments": len(experiments)}


def port(number: str) -> Facts:
    """Whether a TCP port of this machine is free."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", int(number)))
        except OSError as error:
            return {"free": False, "reason": error.strerror}
    return {"free": True}


def _keras() -> Facts:
    """Version and backend; what went wrong where the version would be."""
    try:
        import keras
    except ImportError as error:
        return {"keras": str(error), "backend": None}
    return {"keras": keras.__version__, "backend": keras.config.backend()}


def _sqlite(path: Path) -> Facts:
    """Whether a SQLite file can be written, and is at the schema that this MLflow makes."""
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            if "alembic_version" not in tables:
                return {"writable": True, "problem": "a database without MLflow's tables"}
            present = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.Error as error:
        return {"writable": False, "problem": str(error)}
    return {"writable": True, "schema": present, "newest_schema": _newest_schema()}


def _newest_schema() -> str | None:
    """The schema that the installed MLflow makes."""
    import mlflow
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    settings = Config()
    settings.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return ScriptDirectory.from_config(settings).get_current_head()


def _existing(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


PROBES: dict[str, Callable[[str], Facts]] = {
    probe.__name__: probe for probe in (tensorflow, horovod, allreduce, onnxruntime, tensorrt, gpus, store, port)
}


def main(arguments: list[str]) -> int:
    """Run one probe; returns the exit code."""
    facts = PROBES[arguments[0]](arguments[1] if len(arguments) > 1 else "")
    # Libraries leave half lines behind.
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
