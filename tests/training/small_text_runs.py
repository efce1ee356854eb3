"""Small runs over texts that train for real in some seconds: labels by word, many lengths."""

import json

import numpy as np
import yaml

from tests.stores import new_store
from tfpipe.config import load_config

# One family of model, tokenizer and labels each.
KINDS = ("single", "multi", "tags")
TASKS = {"single": "text_classification", "multi": "text_classification", "tags": "token_classification"}
MAX_LENGTH = 24

_FILLERS = ("the", "a", "on", "under", "green", "old", "house", "river", "walks", "sleeps", "slowly", "Zürich", "naïve")
_MOODS = {"glad": ("laughing", "smiles", "merry"), "sad": ("weeping", "cries", "gloomy"), "calm": ("rests", "quiet")}
_PEOPLE, _PLACES = ("Anna", "Viktor", "Zoë"), ("Oslo", "Lima")


def write_texts(folder, kind, *, num_samples=44, seed=0):
    """A file of texts of 1 to about 30 words; longer ones than `MAX_LENGTH` tokens are among them."""
    rng = np.random.default_rng(seed)
    write = {"single": _write_single, "multi": _write_multi, "tags": _write_tags}[kind]
    folder.mkdir(parents=True, exist_ok=True)
    return write(folder, rng, num_samples)


def text_values(tmp_path, data, kind, *, model=None, **training):
    """Raw values of a small run, everything below `tmp_path`."""
    sizes = {"name": "text_cnn", "width": 8, "num_layers": 1, "num_heads": 2, "feed_forward_width": 12}
    return {
        "task": TASKS[kind],
        "data": {"path": str(data), "validation_fraction": 0.25},
        "preprocessing": {"vocabulary_size": 300, "max_length": MAX_LENGTH, "lowercase": True},
        "model": {**sizes, **(model or {})},
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.02, **training},
        "conversion": {"latency_runs": 3, "max_metric_drop": 0.2},
        "tracking": {"uri": new_store(tmp_path), "experiment": "small", "registered_model": "small"},
        "output_dir": str(tmp_path / "run"),
    }


def text_run_config(tmp_path, data, kind, overrides=(), **options):
    """A small run as a Config; `overrides` as on the command line, `options` as in `text_values`."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(text_values(tmp_path, data, kind, **options)))
    return load_config(path, overrides)


def _filled(rng, words):
    """The words in their order, among others."""
    filled = list(rng.choice(_FILLERS, rng.integers(0, 28)))
    for place, word in zip(sorted(rng.integers(0, len(filled) + 1, len(words)))[::-1], words[::-1], strict=True):
        filled.insert(place, word)
    return [str(word) for word in filled]


def _write_single(folder, rng, num_samples):
    lines = ["text\tlabel"]
    for index in range(num_samples):
        mood = list(_MOODS)[index % len(_MOODS)]
        lines.append(f"{' '.join(_filled(rng, [rng.choice(_MOODS[mood])]))}\t{mood}")
    path = folder / "texts.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_multi(folder, rng, num_samples):
    lines = []
    for index in range(num_samples):
        # No label at all, each alone, and all together.
        moods = [mood for bit, mood in enumerate(_MOODS) if index >> bit & 1]
        text = " ".join(_filled(rng, [rng.choice(_MOODS[mood]) for mood in moods]) or ["river"])
        lines.append(json.dumps({"text": text, "label": moods}, ensure_ascii=False))
    path = folder / "texts.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_tags(folder, rng, num_samples):
    tag_of = dict.fromkeys(_PEOPLE, "B-PER") | dict.fromkeys(_PLACES, "B-LOC") | {"Berg": "I-PER"}
    sentences = []
    for _ in range(num_samples):
        person = [[str(rng.choice(_PEOPLE))], [str(rng.choice(_PEOPLE)), "Berg"]][int(rng.integers(0, 2))]
        words = [*_filled(rng, []), *person, *_filled(rng, [str(rng.choice(_PLACES))])]
        sentences.append("\n".join(f"{word} {tag_of.get(word, 'O')}" for word in words))
    path = folder / "texts.conll"
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return path
