"""Which samples validation gets: a share of every stratum, fixed by the seed."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfpipe.core.errors import DataError
from tfpipe.data.text import TextSource, listed


def hold_out(
    strata: Iterable[Mapping[str, Sequence[int]]], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the groups of every stratum, at least one and not all; of a stratum of one group, none.

    A group's side depends on its name and the seed alone, up to rounding.

    Args:
        strata: For each, by the name of a group, the positions of its samples; a group stays together.
        fraction: Share held out, above 0 and below 1.
        seed: Another seed gives another split.

    Returns:
        (kept, held out): increasing positions.
    """
    kept: list[int] = []
    held_out: list[int] = []
    for groups in strata:
        ordered = sorted(groups, key=lambda name: _rank(name, seed))
        count = min(max(1, round(len(ordered) * fraction)), len(ordered) - 1)
        for position, name in enumerate(ordered):
            (held_out if position < count else kept).extend(groups[name])
    return np.sort(np.array(kept, dtype=np.int64)), np.sort(np.array(held_out, dtype=np.int64))


def split_texts(source: TextSource, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the texts; copies of a text, which differ in case and white space at most, stay together.

    Stratified by class; of several labels by the set of them, sets too rare to be split in one stratum; of tagged texts
    by whether there is an entity.

    Args:
        source: n samples.
        fraction: Share held out, above 0 and below 1.
        seed: Another seed gives another split.

    Returns:
        (kept, held out): increasing positions in `source`, together all n.

    Raises:
        DataError: A class has one distinct text only, or nothing can be held out.
    """
    groups: dict[str, list[int]] = {}
    for index in range(len(source)):
        groups.setdefault(source.group(index), []).append(index)
    # A text with two labels, which `validate` reports, counts with the first.
    labels = {name: source.labels_of(members[0]) or (source.label(members[0]),) for name, members in groups.items()}
    sizes = Counter(labels.values())
    if source.kind == "single":
        small = [source.labels[label] for (label,), size in sizes.items() if size == 1]
        if small:
            raise DataError(
                f"data.validation_fraction: expected at least 2 different texts in every class to split, received 1 in "
                f"{listed(sorted(small))}. Add samples, or set data.validation_path or data.validation_fraction=0."
            )
    least = math.ceil(1 / fraction) if source.multi_label else 1
    strata: dict[tuple[int, ...], dict[str, list[int]]] = {}
    for name, members in groups.items():
        stratum = labels[name] if sizes[labels[name]] >= least else ()
        strata.setdefault(stratum, {})[name] = members
    kept, held_out = hold_out(strata.values(), fraction, seed)
    if not len(held_out):
        raise DataError(
            f"data.validation_fraction: expected at least 2 different texts to split, received {len(groups)}."
        )
    return kept, held_out


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()
