"""From token ids to rows: special tokens, truncation, windows over long texts, and padding to a few lengths."""

from collections.abc import Sequence

import numpy as np

from tfpipe.core.errors import ConfigError
from tfpipe.text.encoding import Tokenizer

# Padding wastes at most half of a short row and a quarter of a long one; each length is one shape to warm.
DEFAULT_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)

# [CLS] text [SEP]
SPECIAL_TOKENS = 2


def pack(ids: Sequence[int], *, max_length: int, start_id: int, end_id: int) -> list[int]:
    """One row: start, as many tokens as fit, end.

    Args:
        ids: Tokens of a text; those that do not fit are cut off at the end.
        max_length: Length of the row at most, special tokens included; at least 2.
        start_id: Opens the row.
        end_id: Closes it, also where tokens were cut off.

    Raises:
        ConfigError: `max_length` leaves no place for the special tokens.
    """
    if max_length < SPECIAL_TOKENS:
        raise ConfigError(f"max_length: expected at least {SPECIAL_TOKENS}, received {max_length}.")
    return [start_id, *ids[: max_length - SPECIAL_TOKENS], end_id]


def row_of(tokenizer: Tokenizer, ids: Sequence[int], max_length: int) -> np.ndarray:
    """(tokens,) int32: a text's ids as the model's row; see `pack`."""
    packed = pack(ids, max_length=max_length, start_id=tokenizer.start_id, end_id=tokenizer.end_id)
    return np.array(packed, np.int32)


def buckets_up_to(max_length: int) -> tuple[int, ...]:
    """The default lengths below `max_length`, and `max_length`."""
    return (*(length for length in DEFAULT_BUCKETS if length < max_length), max_length)


def bucket_length(length: int, buckets: Sequence[int] = DEFAULT_BUCKETS) -> int:
    """The smallest of some lengths that holds a row.

    Args:
        length: Of the row, special tokens included.
        buckets: Lengths, ascending.

    Raises:
        ConfigError: The row is longer than the longest.
    """
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ConfigError(f"buckets: expected rows of at most {max(buckets, default=0)} tokens, received one of {length}.")


def windows(num_tokens: int, max_length: int, stride: int) -> list[tuple[int, int]]:
    """Overlapping pieces of a long text, each as long as a row holds; the last may be shorter.

    Args:
        num_tokens: Tokens of the text, without special tokens.
        max_length: Tokens of a window at most, without special tokens; at least 1.
        stride: Tokens from the beginning of one window to that of the next; 1 to `max_length`.

    Returns:
        Begin and end, exclusive, of each window; one window where all fits, also for no token.

    Raises:
        ConfigError: `max_length` or `stride` is out of range; a larger stride would leave tokens out.
    """
    if not 1 <= stride <= max_length:
        raise ConfigError(f"stride: expected 1 to {max_length}, the length of a window, received {stride}.")
    last_start = max(num_tokens - max_length, 0)
    # Up to the first that reaches the end: a further one would hold nothing new.
    count = -(-last_start // stride) + 1
    return [(start, min(start + max_length, num_tokens)) for start in range(0, count * stride, stride)]


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as one array.

    Args:
        rows: Packed ids, each at most `length` long.
        length: Of every row of the result.
        pad_id: Fills up at the end.

    Returns:
        (B, L) int32 ids; (B, L) int32 mask, 1 for tokens and 0 for padding.

    Raises:
        ConfigError: A row is longer.
    """
    longest = max(map(len, rows), default=0)
    if longest > length:
        raise ConfigError(f"rows: expected at most {length} tokens each, received one of {longest}.")
    ids = np.full((len(rows), length), pad_id, dtype=np.int32)
    mask = np.zeros((len(rows), length), dtype=np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask
