"""Entity scores on WNUT-17 as a run reports them, against seqeval's on the same answers.

    WNUT17=/path/to/wnut17 make bench NAME=wnut17

The folder holds train.conll, dev.conll and test.conll. Trains a bidirectional LSTM from random weights with
`python -m tfpipe.train`, tags the test words with the model that it saved, and has seqeval score them; the value is 1
minus the largest difference from the run's own test precision, recall and F1.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from seqeval.metrics import f1_score, precision_score, recall_score

from benchmarks.measure import conclude
from benchmarks.sst2 import folder_of, trained
from tfpipe.data.text import TaggedText, TextSource
from tfpipe.data.text_files import TextForm, open_text
from tfpipe.models.assembly import TextParts, load_model

SETTINGS = {
    "task": "token_classification",
    "model": {"name": "text_bilstm", "width": 100, "dropout": 0.5},
    "training": {"epochs": 6, "batch_size": 32, "learning_rate": 0.003, "monitor": "val_f1"},
}
TOLERANCE = 1e-6


def main() -> None:
    data = folder_of("WNUT17", ("train.conll", "dev.conll", "test.conll"))
    with tempfile.TemporaryDirectory() as name:
        run = trained(SETTINGS, data, "conll", Path(name))
        metrics = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
        parts = load_model(run / "model.keras")
    if not isinstance(parts, TextParts):
        raise TypeError("model: expected one of texts.")
    source = open_text(str(data / "test.conll"), TextForm(task="token_classification"))
    true, predicted = zip(*tagged(parts, source), strict=True)
    theirs = {
        "precision": precision_score(true, predicted),
        "recall": recall_score(true, predicted),
        "f1": f1_score(true, predicted),
    }
    print("seqeval: " + ", ".join(f"{name} {value:.6f}" for name, value in theirs.items()))
    print("the run: " + ", ".join(f"{name} {metrics[f'test_{name}']:.6f}" for name in theirs))
    difference = max(float(abs(metrics[f"test_{name}"] - value)) for name, value in theirs.items())
    conclude("wnut17_agreement_with_seqeval", [1 - difference], goal=1 - TOLERANCE, unit="1 - difference")


def tagged(parts: TextParts, source: TextSource) -> Iterator[tuple[list[str], list[str]]]:
    """The true tags of each text, and the model's, found word by word with nothing of the trainer's code."""
    for index in range(len(source)):
        content = source.content(index)
        if not isinstance(content, TaggedText):
            raise TypeError(f"{source.identifier(index)}: expected a tagged text.")
        encoding = parts.tokenizer.encode(content.text)
        kept = encoding.ids[: parts.max_length - 2]
        row = np.array([[parts.tokenizer.start_id, *kept, parts.tokenizer.end_id]], np.int32)
        best = np.asarray(parts.model(row, training=False))[0, 1:-1].argmax(axis=-1)
        tags = []
        for start, end in zip(content.starts, content.ends, strict=True):
            own = [t for t in range(len(kept)) if encoding.starts[t] < end and encoding.ends[t] > start]
            tags.append(parts.labels[best[own[0]]] if own else "O")
        yield list(content.tags), tags


if __name__ == "__main__":
    main()
