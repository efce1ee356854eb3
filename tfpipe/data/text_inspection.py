"""What `validate` and `pack` learn about one text by reading it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from tfpipe.core.entities import Scheme, Span, Transition, entity_spans, invalid_transitions
from tfpipe.core.errors import DecodeError
from tfpipe.core.words import split_words
from tfpipe.data.text import TaggedText, TextSource, text_key
from tfpipe.data.token_counts import TokenCount, count_tokens
from tfpipe.text.encoding import Tokenizer

_EXCERPT_CHARS = 240
_PLACES_SHOWN = 3
_ENTITIES_SHOWN = 8
_REPLACEMENT = "\ufffd"
# Control characters that are white space in any text.
_ORDINARY = frozenset("\t\n\r")

# Fault -> its heading in the report.
TEXT_FAULTS = {"too_long": "Texts with more characters than data.max_text_chars"}


@dataclass(frozen=True, slots=True)
class TextInspection:
    """One text, read.

    Attributes:
        split: "training", "validation" or "test".
        index: Position in that split's source.
        identifier: As the source gives it.
        label: Its label; several joined by ` | `; of a tagged text its first entities with their types.
        labels: Class names, label names, or the type of every entity.
        answer: What copies of the text should share: its labels or its tags.
        key: What copies share; see `text_key`.
        excerpt: The text's beginning.
        num_chars: Code points.
        num_words: As tagged, or else as `split_words` finds them.
        size_bytes: In UTF-8.
        tokens: What the tokenizer makes of it; None where none was given, and of a text that cannot be used.
        fault: One of TEXT_FAULTS, or "" for a sample that can be used.
        detail: What is wrong, as a sentence.
        replacement_chars: How many U+FFFD, which stand for bytes that somebody could not decode.
        control_chars: How many, but for tabs and line breaks.
        is_garbled: Whether it reads as UTF-8 that was decoded as Windows-1252.
        invalid_tags: Places that break the data set's scheme.
    """

    split: str
    index: int
    identifier: str
    label: str
    labels: tuple[str, ...]
    answer: tuple[str, ...]
    key: str
    excerpt: str
    num_chars: int
    num_words: int
    size_bytes: int
    tokens: TokenCount | None = None
    fault: str = ""
    detail: str = ""
    replacement_chars: int = 0
    control_chars: int = 0
    is_garbled: bool = False
    invalid_tags: tuple[Transition, ...] = ()


def inspect_texts(
    source: TextSource,
    split: str,
    *,
    scheme: Scheme = "BIO",
    tokenizer: Tokenizer | None = None,
    max_length: int = 0,
) -> list[TextInspection]:
    """Read every text, with a progress bar.

    Args:
        source: The texts.
        split: What they are for; copied into each result.
        scheme: What tags should keep to.
        tokenizer: Counts tokens; None: they are not counted.
        max_length: Tokens of a text that the model sees, special ones included; matters with a tokenizer.

    Returns:
        One result a text, in the source's order.
    """
    bar = tqdm(range(len(source)), desc=f"checking {split}", unit=" texts", disable=None)
    inspections = (_inspect(source, index, split, scheme) for index in bar)
    if tokenizer is None:
        return list(inspections)
    return [
        # What is too long for training may be too long for a tokenizer.
        sample if sample.fault else replace(sample, tokens=count_tokens(tokenizer, source.text(index), max_length))
        for index, sample in enumerate(inspections)
    ]


def _inspect(source: TextSource, index: int, split: str, scheme: Scheme) -> TextInspection:
    text = source.text(index)
    fault = detail = ""
    try:
        source.read(index)
    except DecodeError as error:
        fault, detail = "too_long", str(error)
    content = source.content(index)
    labels = answer = tuple(source.labels[label] for label in source.labels_of(index))
    label, num_words = " | ".join(labels), len(split_words(text)[0])
    invalid: tuple[Transition, ...] = ()
    if isinstance(content, TaggedText):
        spans = entity_spans(content.tags)
        labels = tuple(span.label for span in spans)
        label, answer, num_words = _entities_shown(content, spans), content.tags, len(content.tags)
        invalid = tuple(invalid_transitions(content.tags, scheme))
        detail = detail or _invalid_detail(content, invalid)
    return TextInspection(
        split=split,
        index=index,
        identifier=source.identifier(index),
        label=label,
        labels=labels,
        answer=answer,
        key=text_key(text),
        excerpt=text[:_EXCERPT_CHARS] + ("…" if len(text) > _EXCERPT_CHARS else ""),
        num_chars=len(text),
        num_words=num_words,
        size_bytes=len(text.encode()),
        fault=fault,
        detail=detail,
        replacement_chars=text.count(_REPLACEMENT),
        control_chars=0 if text.isprintable() else sum(map(_is_control, text)),
        is_garbled=is_garbled(text),
        invalid_tags=invalid,
    )


def is_garbled(text: str) -> bool:
    """Whether a text reads as UTF-8 that was decoded as Windows-1252, like `cafÃ©` for `café`."""
    if text.isascii():
        return False
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


def _is_control(character: str) -> bool:
    return character not in _ORDINARY and unicodedata.category(character) == "Cc"


def _entities_shown(content: TaggedText, spans: Sequence[Span]) -> str:
    surfaces = (content.text[content.starts[span.start] : content.ends[span.end - 1]] for span in spans)
    shown = [f"{surface} ({span.label})" for surface, span in zip(surfaces, spans, strict=True)]
    return ", ".join(shown[:_ENTITIES_SHOWN]) + (", ..." if len(shown) > _ENTITIES_SHOWN else "")


def _invalid_detail(content: TaggedText, invalid: tuple[Transition, ...]) -> str:
    places = []
    for place in invalid[:_PLACES_SHOWN]:
        if place.position < len(content.tags):
            word = content.text[content.starts[place.position] : content.ends[place.position]]
            places.append(f"{place.tag} of word {place.position + 1} ({word!r}) after {place.before}")
        else:
            places.append(f"the end after {place.before}")
    return "; ".join(places) + ("; ..." if len(invalid) > _PLACES_SHOWN else "")
