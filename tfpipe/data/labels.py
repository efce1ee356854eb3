"""The order of class names."""

import re
from collections.abc import Iterable

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names, sorted; by number where all of them are integers.

    Example:
        >>> class_order(["10", "9", "9"])
        ('9', '10')
        >>> class_order(["b", "10", "9"])
        ('10', '9', 'b')
    """
    distinct = set(names)
    if all(_INTEGER.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))
