"""Answers kept by what was asked, so that the same question is not computed twice; bounded in bytes."""

import hashlib
from collections import OrderedDict
from typing import Generic, TypeVar

import numpy as np

from tfpipe.core.signature import Array

T = TypeVar("T")

# A key, its place in the order, and the objects around an answer; so that many small answers are bounded too.
_OVERHEAD_BYTES = 512


class AnswerCache(Generic[T]):
    """The answers used last; on the event loop.

    Attributes:
        max_bytes: Most that they may take; 0: none is kept, and nothing is counted.
        used_bytes: What they take.
        hits: Questions whose answer was there.
        misses: Questions whose answer was not.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        """Answers that are kept."""
        return len(self._kept)

    def get(self, question: bytes) -> T | None:
        """The answer to a question, which is then the newest; None where it is not there."""
        kept = self._kept.get(question)
        if kept is None:
            self.misses += self.max_bytes > 0
            return None
        self._kept.move_to_end(question)
        self.hits += 1
        return kept[0]

    def put(self, question: bytes, answer: T, *, size_bytes: int) -> None:
        """Keep an answer, in place of the oldest ones; one that is larger than the cache is not kept.

        Args:
            question: See `question_of`.
            answer: Must not be changed any more.
            size_bytes: Of its arrays.
        """
        size_bytes += _OVERHEAD_BYTES
        if size_bytes > self.max_bytes:
            return
        before = self._kept.pop(question, None)
        self.used_bytes += size_bytes - (before[1] if before else 0)
        self._kept[question] = answer, size_bytes
        while self.used_bytes > self.max_bytes:
            _, (_, freed_bytes) = self._kept.popitem(last=False)
            self.used_bytes -= freed_bytes

    def clear(self) -> None:
        """Forget every answer."""
        self._kept.clear()
        self.used_bytes = 0


def question_of(model: str, content: bytes | str | Array) -> bytes:
    """What tells a question from every other: 32 bytes.

    Args:
        model: All that an answer depends on besides its input, e.g. the bundle's sha256, variant, provider, arithmetic,
            and whether features are asked for.
        content: A file as sent, a text, or an array.
    """
    digest = hashlib.sha256()
    kind = "text" if isinstance(content, str) else "file"
    data: bytes | memoryview
    if isinstance(content, np.ndarray):
        kind = f"{content.dtype.str}{content.shape}"
        data = np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
    else:
        # A text may hold half of a surrogate pair; whoever reads it refuses it.
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    # Lengths first, so that no two pairs of model and kind run together.
    for part in (model.encode(), kind.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    digest.update(data)
    return digest.digest()
