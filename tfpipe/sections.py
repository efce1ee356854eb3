"""What the sections of a configuration are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# YAML has lists only; strict mode would refuse them for a tuple.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Floats = Annotated[tuple[float, ...], Field(strict=False)]
Ints = Annotated[tuple[int, ...], Field(strict=False)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Resize = Annotated[
    Literal["stretch", "crop", "pad"], Field(description="How other aspect ratios are brought to image_size.")
]
Interpolation = Annotated[Literal["bilinear", "nearest", "bicubic"], Field(description="Resize method.")]
Antialias = Annotated[bool, Field(description="Low-pass filter when shrinking.")]
ChannelValues = Annotated[
    Floats | None, Field(description="Per channel, on a scale of 0..1; with normalization=fixed.")
]


class Section(BaseModel):
    """A part of a configuration: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def are_given_as_asked(normalization: str, mean: ChannelValues, std: ChannelValues) -> bool:
    """Whether mean and std are there with normalization=fixed, and only then."""
    return (normalization == "fixed") == (mean is not None and std is not None) and (mean is None) == (std is None)


def are_of_channels(mean: ChannelValues, std: ChannelValues) -> bool:
    """Whether mean and std have 1 or 3 numbers each, std above 0; true where there are none."""
    return all(len(values) in (1, 3) for values in (mean, std) if values is not None) and all(v > 0 for v in std or ())
