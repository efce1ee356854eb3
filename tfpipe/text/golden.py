"""Texts on which tokenizers part company, and the ids that must come of them wherever a tokenizer is read."""

import json
from collections.abc import Sequence
from pathlib import Path

from tfpipe.core.errors import BundleError
from tfpipe.text.encoding import Encoding, Tokenizer

GOLDEN = "golden.jsonl"

AWKWARD_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "  Leading,   trailing\tand\r\nother white space \n",
    "It's 3.14 o'clock -- isn't it?! #tag @name $5 50% a_b (c) [d] {e} ^`|~<>&*+=\\/",
    "https://example.org/a?b=c&d=%20#e name@example.org 2026-11-22T01:47:33Z",
    # Accents: composed, decomposed, stacked in either order, none at the front, one that no letter carries.
    "Café naïve Ångström déjà vu Łódź smørrebrød",
    "Cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "e\u0323\u0301 e\u0301\u0323 \u1ec7 o\u031b\u0323\u0302 q\u0307\u0323",
    "\u0301front \u0301 x\u0301\u0302\u0303\u0304",
    "tiếng Việt được viết bằng chữ Quốc ngữ",
    # Case that changes lengths, or depends on the language.
    "Straße STRASSE \u1e9e İstanbul DIYARBAKIR ıI ΣΊΣΥΦΟΣ Ὀδυσσεύς ŉ \u0390 \ufb03 ǆ ǅ",
    "\u2167 \u00bd \u00b2 \u2122 \u33a1 \uff21\uff22\uff23 \uff76\uff9e \u210c \U0001d400\U0001d6a8",
    # Chinese, Japanese, Korean.
    "我喜欢北京2026年。東京タワーは高い！ひらがなカタカナ",
    "한국어 문장입니다 \u1112\u1161\u11ab \u1112\u1161 \u3131\u3139",
    "\uf900\ufa0e\U0002f800\U00020000\U0002ceb0\U00030000 \u3400",
    # Right to left, with marks and direction.
    "שלום עולם \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "مرحبا بالعالم \u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f \u200f\u202b\u0661\u0662\u202c \ufefb",
    # Scripts whose marks are no accents, and scripts without spaces.
    "हिन्दी क्षत्रिय \u0958 বাংলা \u09c7\u09be தமிழ் \u0bca",
    "ภาษาไทยไม่มีช่องว่าง \u0e4d\u0e32 \u0e33 ລາວ ខ្មែរ མི་རིགས \u0f71\u0f72\u0f74",
    "\u1100\u1161\u11a8\u1100 \U0001d15e \U000110ab \U0001e9de \ua66f\u0483",
    # Emoji: selectors, skin tones, joined, flags, keycaps.
    "😀 ❤\ufe0f 👍🏽 👨\u200d👩\u200d👧\u200d👦 🇩🇪 1\ufe0f\u20e3 🏴\U000e0067\U000e0062\U000e007f",
    # Control, format and invisible characters; white space outside ASCII.
    "a\u200bb\u200cc\u200dd\ufeffe\u00adf\u2060g\u034fh\u115fi\u3164j\u180ek",
    "a\x01b\x07c\x1bd\x7fe\x85f\u00a0g\u1680h\u2003i\u2028j\u2029k\u202fl\u205fm\u3000n",
    "before\x00after",
    "\x00",
    # No characters of any kind, private, and not yet assigned at some age.
    "\ufffd \ufffe\uffff \ue000 \U0010ffff \U0001fae8 \u0c3c \U00011938 \u1acf \u0378 \U000e0fff",
    # Special tokens written out are text.
    "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <pad> <unk> <mask> ##ing \u2581under \u0120",
    # Longest words.
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101,
    "é" * 50 + " " + "é" * 51 + " " + "ß" * 50 + " " + "\ufb03" * 34,
    "\ufe0f" * 300 + " " + "pneumonoultramicroscopicsilicovolcanoconiosis" * 9,
    "—–‘’“”…«»¿¡§¶†‡•‰′″※ ٪؛؟ 、。「」 \u055a \u05be \u2e3a",
)


def golden_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of some texts, one list a text."""
    return [tokenizer.encode(text).ids for text in texts]


def golden_lines(tokenizer: Tokenizer) -> bytes:
    """The content of golden.jsonl: a line an awkward text, with its ids and their places."""
    lines = ({"text": text, **tokenizer.encode(text)._asdict()} for text in AWKWARD_TEXTS)
    # In ASCII, so that no editor normalises what must not be.
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def check_golden(tokenizer: Tokenizer, folder: Path) -> None:
    """Prove a tokenizer on the golden texts of a folder.

    Raises:
        BundleError: golden.jsonl is missing or no such file, or a text gives other ids or places than it says.
    """
    path = folder / GOLDEN
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        golden = [(line["text"], Encoding(line["ids"], line["starts"], line["ends"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: expected golden texts with their ids; {error}.") from error
    if not golden:
        raise BundleError(f"{path}: expected golden texts with their ids, received an empty file.")
    for number, (text, expected) in enumerate(golden, start=1):
        received = tokenizer.encode(text)
        if received != expected:
            raise BundleError(
                f"{path}, line {number}: for {text[:40]!r} expected {_summary(expected)}, "
                f"received {_summary(received)}. Its library may be of another version than where it was made."
            )


def _summary(encoding: Encoding) -> str:
    return f"ids {encoding.ids[:12]} at {list(zip(encoding.starts, encoding.ends, strict=False))[:6]}"
