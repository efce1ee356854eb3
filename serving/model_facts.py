"""What every protocol needs to know of the model that answers."""

from typing import Protocol

from tfpipe.core.signature import TensorSpec

ENTITIES_TASK = "token_classification"


class ModelFacts(Protocol):
    """The part of an engine that protocols read."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def version(self) -> str | None:
        """Registered version; None for a model that is not registered."""

    @property
    def task(self) -> str:
        """E.g. "image_classification"."""

    @property
    def takes(self) -> str:
        """What an input is: "image", "text" or "tensors"."""

    @property
    def gives_features(self) -> bool:
        """Whether there is an output `features`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes or tags, in the order of the probabilities."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the model itself: rows, or named tensors."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the model itself."""


def gives_entities(model: ModelFacts) -> bool:
    """Whether a text's answer is entities."""
    return model.task == ENTITIES_TASK
