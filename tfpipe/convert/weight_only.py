"""Variants whose products have weights of 4 or 8 bits, everything else staying as it was: `conversion.weight_only`.

ONNX Runtime's quantiser for them wants a newer onnx than can be imported beside TensorFlow. So it runs as a child
process in an environment of its own, and the file that comes back is opened and judged here like any other.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.candidate import Candidate
from tfpipe.convert.onnx_file import save_model
from tfpipe.convert.phases import phase
from tfpipe.convert.stored_int8 import quantize_embeddings
from tfpipe.core.errors import ConfigError, ConversionError

# Where scripts/weight_only_env.sh makes the environment, below the folder of the sources or the current one.
_PYTHON = Path(".venvs/weight-only/bin/python")
_WORKER = Path(__file__).with_name("weight_only_worker.py")
_MAKE_IT = (
    "Make that environment, which holds no TensorFlow, with: scripts/weight_only_env.sh. Or name the Python of "
    "one that has the packages of constraints/weight-only.txt: conversion.weight_only_python=PATH."
)


@dataclass(frozen=True)
class Form:
    """How weights are stored.

    Attributes:
        name: Of the variant and of its precision.
        bits: Of a weight.
        block_size: Weights of a column that share a scale. Of 4 bits few, for accuracy: at 32 the error was 0.18 of
            the output's spread, at 128 0.22 (normal weights); of 8 bits 0.016 and 0.019, and 128 was twice as fast.
    """

    name: str
    bits: int
    block_size: int


FORMS = {"int4": Form("int4", 4, 32), "int8": Form("int8_weights", 8, 128)}


@dataclass(frozen=True)
class Environment:
    """A Python that has the quantiser.

    Attributes:
        python: Its interpreter.
        versions: Of the libraries that count.
    """

    python: Path
    versions: dict[str, str]


def open_environment(config: ConversionConfig) -> Environment | None:
    """The environment that `conversion.weight_only` needs, tried; None where nothing is asked for.

    Raises:
        ConfigError: There is none, or it lacks something; says how to make it.
    """
    if config.weight_only == "none":
        return None
    python = _find_python(config.weight_only_python)
    done = _run(python, "check")
    if done.returncode != 0:
        raise ConfigError(
            f"conversion.weight_only: expected an environment with onnxruntime, onnx and onnx-ir, but {str(python)!r} "
            f"says: {_last_line(done.stderr)}. {_MAKE_IT}"
        )
    return Environment(python, _answer(done))


def weight_only_variants(environment: Environment | None, fp32: Candidate, config: ConversionConfig) -> list[Candidate]:
    """What `conversion.weight_only` asks for: no variant, or one.

    Args:
        environment: As `open_environment` gives it.
        fp32: The float32 graph.
        config: Of the conversion.

    Raises:
        ConversionError: The model has no product with stored weights, or the quantiser fails.
    """
    if environment is None:
        return []
    form = FORMS[config.weight_only]
    with phase(f"onnx {form.name} (in {environment.python.parent.parent})"):
        graph, count = to_weight_only(environment, fp32.graph, form)
    if count == 0:
        raise ConversionError(
            f"conversion.weight_only: expected a model with products of stored weights (MatMul), such as a "
            f"transformer, found none to store as {form.name}. Set it to none."
        )
    recipe = {
        "weights": f"int{form.bits}",
        "block_size": form.block_size,
        "products": count,
        "embeddings": "int8, one scale a row",
        "quantised_with": environment.versions,
    }
    return [Candidate(form.name, form.name, graph, recipe)]


def to_weight_only(environment: Environment, model: onnx.ModelProto, form: Form) -> tuple[onnx.ModelProto, int]:
    """The graph with weights of products in few bits and its embeddings in int8, and how many products there are.

    Raises:
        ConversionError: The quantiser fails.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-weight-only-") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        save_model(model, source)
        settings = {"bits": form.bits, "block_size": form.block_size}
        done = _run(environment.python, "quantize", str(source), str(target), json.dumps(settings))
        if done.returncode != 0:
            raise ConversionError(
                f"conversion.weight_only: expected a graph with {form.bits}-bit weights, but "
                f"{str(environment.python)!r} says: {_last_line(done.stderr)}."
            )
        quantized = onnx.load(target)
    quantize_embeddings(quantized)
    return quantized, _answer(done)["quantized"]


def _find_python(given: str | None) -> Path:
    if given is not None:
        places = [Path(given)]
    else:
        places = [folder / _PYTHON for folder in (Path.cwd(), Path(__file__).resolve().parents[2])]
    for python in places:
        if python.is_file():
            # Not resolved: through a link an environment's Python would be that of the system.
            return python.absolute()
    raise ConfigError(
        f"conversion.weight_only: expected a second environment's Python at {str(places[-1])!r}, found none. {_MAKE_IT}"
    )


def _run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -I: neither this folder, whose modules have names of others, nor PYTHONPATH's TensorFlow is for the child.
    command: Sequence[str] = [str(python), "-I", str(_WORKER), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _answer(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(_last_line(done.stdout))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].rstrip(".") if lines else "nothing"
