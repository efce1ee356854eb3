"""Texts and small vocabularies for the tests of tokenizers."""

import unicodedata

from hypothesis import strategies as st

CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "She sells sea shells by the sea shore; the shells are sea shells, surely.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Voix ambiguë d'un cœur qui au zéphyr préfère les jattes de kiwis.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Do bạch kim rất quý nên sẽ dùng để lắp vô xương.",
    "我能吞下玻璃而不伤身体。 私はガラスを食べられます。",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요.",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती.",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني. אני יכול לאכול זכוכית.",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ 😀👍🏽",
) * 3

# Where normalisation has most to do: letters that marks compose with or are ordered around, and what folding changes.
_INTERACTING = (
    "aAeEiIoOuU cdhLs,.#-ßſẞİıΣςﬃŉΐǆ½²Ⅷ㎡ｶﾞℌéÅ각한가\u1100\u1161\u11a8\u3131丁一豈\u09c7\u09be\u0bca\u0958"
    "\u0300\u0301\u0302\u0304\u0307\u0308\u030a\u0323\u0327\u031b\u0334\u0345\u05b8\u05c1\u0651\u064f\u093c\u094d"
    "\u0e33\u0e38\u0e48\u0f71\u0f72\u0f74\u302a\u3099\U0001d157\U0001d165\U000110ba\u0483\ua66f\u1acf\u0c3c"
    "\u200b\u200d\ufe0f\u00ad\u034f\u115f\u3164\u180e\u00a0\u3000\u2028\t\n\x00\x85\U000e0020\U0001f600\ue000\uffff"
)


def any_text() -> st.SearchStrategy[str]:
    """Unicode strings of every kind, often of characters that interact."""
    characters = st.characters(exclude_categories=["Cs"])
    return st.one_of(
        st.text(st.sampled_from(_INTERACTING), max_size=30),
        st.text(st.sampled_from(_INTERACTING) | characters, max_size=30),
        st.text(characters, max_size=30),
        st.lists(st.sampled_from([word for line in CORPUS for word in line.split()]), max_size=12).map(" ".join),
        # About the longest word that has tokens of its own.
        st.text(st.sampled_from("aé\u0301ß"), min_size=45, max_size=110),
    )


def many_texts() -> st.SearchStrategy[list[str]]:
    """Enough of them for one call of a Keras layer to be worth it."""
    return st.lists(any_text(), min_size=1, max_size=40)


def word_piece_vocabulary() -> list[str]:
    """Special tokens, most characters of CORPUS and of `any_text` in all their forms, and pieces of words."""
    characters = set(_INTERACTING).union(*CORPUS)
    forms = {form for character in characters for form in _forms(character)}
    letters = sorted({letter for form in forms for letter in form})
    words = sorted({word for line in CORPUS for form in _forms(line) for word in form.split()})
    # Every fifth letter is missing, so that words with it are unknown.
    tokens = [prefix + letter for index, letter in enumerate(letters) if index % 5 for prefix in ("", "##")]
    tokens += [word[:3] for word in words] + [f"##{word[2:5]}" for word in words if len(word) > 2] + words[::4]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return special + sorted({token for token in tokens if token.rstrip() == token and "\0" not in token} - set(special))


def _forms(text: str) -> set[str]:
    cases = {text, text.lower(), text.casefold()}
    return {unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD", "NFKC")}
