"""How much the examples of each class count in the gradient."""

import difflib
from collections.abc import Sequence

import numpy as np

from tfpipe.core.errors import ConfigError
from tfpipe.training_settings import BALANCED, TrainingConfig


def class_weights(config: TrainingConfig, names: Sequence[str], occurrences: np.ndarray) -> np.ndarray | None:
    """`training.class_weights` by class number.

    Source: `balanced`, King & Zeng 2001, "Logistic regression in rare events data", as scikit-learn's
    compute_class_weight has it: samples / (classes * samples of the class).

    Args:
        config: Of the run.
        names: Class names.
        occurrences: (classes,) training samples of each class; of tags, words.

    Returns:
        (classes,) float32; None where all count the same.

    Raises:
        ConfigError: A label that the data do not have.
    """
    given = config.class_weights
    if not given:
        return None
    if given == {BALANCED: 1.0} and BALANCED not in names:
        # A class without samples takes no part.
        balanced: np.ndarray = occurrences.sum() / (np.count_nonzero(occurrences) * np.maximum(occurrences, 1))
        return balanced.astype(np.float32)
    problems = [
        f"training.class_weights: expected labels of the data, received {name!r}.{_nearest(name, names)}"
        for name in given
        if name not in names
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return np.array([given.get(name, 1.0) for name in names], np.float32)


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f" Did you mean {close[0]!r}?" if close else f" They are {shown}."
