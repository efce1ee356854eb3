"""The task of a configuration."""

from collections.abc import Sequence

from tfpipe.core.errors import ConfigError
from tfpipe.tasks.multi_label import MultiLabel
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.tasks.tagging import Tagging
from tfpipe.tasks.task import Task


def find_task(name: str, labels: Sequence[str], *, multi_label: bool = False) -> Task:
    """The task of a configuration.

    Args:
        name: `task`.
        labels: Class names, or tags.
        multi_label: Whether a sample may have several labels, or none.

    Raises:
        ConfigError: There is no such task.
    """
    if name == "token_classification":
        return Tagging(tuple(labels))
    if name in ("image_classification", "text_classification"):
        return MultiLabel(tuple(labels)) if multi_label else SingleLabel(tuple(labels))
    raise ConfigError(
        f"task: expected image_classification, text_classification or token_classification, received {name!r}."
    )
