"""Which token stands for a word: its first one."""

from collections.abc import Sequence

# A word that no token stands for.
NO_TOKEN = -1


def first_tokens(
    token_starts: Sequence[int], token_ends: Sequence[int], word_starts: Sequence[int], word_ends: Sequence[int]
) -> list[int]:
    """The first token of each word.

    Example:
        >>> first_tokens([0, 2, 5], [2, 4, 9], [0, 5], [4, 9])
        [0, 2]

    Args:
        token_starts: (T,) where each token begins, in code points, not decreasing.
        token_ends: (T,) where it ends, exclusive.
        word_starts: (W,) where each word begins, increasing.
        word_ends: (W,) where it ends, exclusive.

    Returns:
        (W,) index of the first token that has a character of the word; `NO_TOKEN` where none has.
    """
    found: list[int] = []
    token = 0
    for start, end in zip(word_starts, word_ends, strict=True):
        while token < len(token_starts) and token_ends[token] <= start:
            token += 1
        there = token < len(token_starts) and token_starts[token] < end
        found.append(token if there else NO_TOKEN)
    return found
