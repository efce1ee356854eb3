"""What a protocol has to know for a load to be sent by it: the model, a request's bytes, a channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from tfpipe.bench.channel import Channel
from tfpipe.core.errors import ConfigError
from tfpipe.core.signature import Array, TensorSpec

Takes = Literal["image", "text", "tensors"]
Sample: TypeAlias = bytes | str | Mapping[str, Array]
"""An encoded image, a text, or arrays by input name."""

# The protocol's names of NumPy's types. Source: Open Inference Protocol, "Tensor Data Types".
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_DATATYPE_OF = {dtype: datatype for datatype, dtype in DATATYPES.items()}


@dataclass(frozen=True)
class AskedModel:
    """The model that a load asks.

    Attributes:
        name: As in requests.
        version: None: whichever the server chooses.
        takes: What a request holds.
        inputs: Of named tensors; an axis of any length is "any".
    """

    name: str
    version: str | None
    takes: Takes
    inputs: tuple[TensorSpec, ...] = ()


class Asking(Protocol):
    """One target, asked by one protocol."""

    async def describe(self, name: str | None, version: str | None) -> AskedModel:
        """The model, as the server tells of it; the only one where no name is given.

        Raises:
            ConfigError: There is no service, no such model, or several and no name.
        """
        ...

    def render(self, model: AskedModel, sample: Sample) -> bytes:
        """The bytes of a request.

        Raises:
            ConfigError: The protocol has no way to ask for it.
        """
        ...

    def open_channel(self) -> Channel:
        """A connection that does not connect yet."""
        ...


def choose(names: list[str], wanted: str | None, *, where: str) -> str:
    """The name that is wanted, or the only one.

    Raises:
        ConfigError: There is no such name, or several and none is wanted.
    """
    listed = ", ".join(sorted(set(names)))
    if wanted is None and len(set(names)) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{where}: expected a model, but it serves none. Is it still loading?")
    if wanted is None:
        raise ConfigError(f"{where}: expected one model, or its name by --model; it serves {listed}.")
    if wanted not in names:
        raise ConfigError(f"{where}: expected model {wanted!r}; it serves {listed}.")
    return wanted


def takes_of_inputs(inputs: tuple[tuple[str, str], ...]) -> Takes:
    """What a model takes, of the names and datatypes of its inputs."""
    strings = [name for name, datatype in inputs if datatype == "BYTES"]
    for name in strings:
        if name in ("image", "image_bytes"):
            return "image"
        if name == "text":
            return "text"
    return "tensors"


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type.

    Raises:
        ConfigError: It has none.
    """
    datatype = _DATATYPE_OF.get(array.dtype.name)
    if datatype is None:
        raise ConfigError(f"input: expected an array of {', '.join(DATATYPES.values())}; received {array.dtype}.")
    return datatype


def spec(name: str, datatype: str, shape: list[int], *, where: str) -> TensorSpec:
    """An input as a server's metadata describe it.

    Raises:
        ConfigError: Of a datatype that no array has.
    """
    if datatype not in DATATYPES:
        raise ConfigError(f"{where}: input {name!r} is {datatype}; expected one of {', '.join(DATATYPES)}.")
    return TensorSpec(name, DATATYPES[datatype], tuple("any" if length < 0 else length for length in shape))
