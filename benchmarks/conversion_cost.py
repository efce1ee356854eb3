"""Time and memory of `python -m tfpipe.convert --precision int8`, each over its limit; the result is the nearest.

    make bench NAME=conversion_cost

ResNet-50 at 224 x 224 with 200 calibration images: under 3 minutes on two cores, and under 4 GiB. BERT-base at 128
tokens: under 6 GiB. Both are runs of `python -m tfpipe.train` that took one step from random weights, each converted by
the command that a user types; memory is that of all its processes together, the service that it starts at the end too.
"""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import conclude_nearest
from benchmarks.processes import ROOT
from benchmarks.watched import Cost, cost_of

GIB = 2**30
# Figures may reach.
RESNET_S, RESNET_BYTES, BERT_BYTES = 180.0, 4 * GIB, 6 * GIB
TRAINED_ON, VALIDATED_ON, LENGTH, VOCABULARY = 240, 100, 128, 30_522
PATIENCE_S = 1800.0
LABELS = ("no", "yes")
# Of random weights, scores are chance; 200 samples are what training keeps.
ANY_SCORE = ("conversion.max_metric_drop=1", "conversion.max_class_drop=1")
ONE_STEP = {"epochs": 1, "batch_size": 2, "limit_train_batches": 1, "optimizer": "sgd"}


class Pictures:
    """JPEG files of smooth noise, 480 x 640."""

    labels = LABELS

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def label(self, index: int) -> int:
        return index % len(LABELS)

    def read(self, index: int) -> tuple[bytes, int]:
        coarse = np.random.default_rng((self._seed, index)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
        return file.getvalue(), self.label(index)


def pictures(split: str, config: Any) -> Pictures | None:
    """What `data.path` names below."""
    count = {"train": TRAINED_ON, "validation": VALIDATED_ON}.get(split)
    return None if count is None else Pictures(count, seed=count)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resnet = converted(trained(resnet50(), folder / "resnet50"))
        bert = converted(trained(bert_base(folder), folder / "bert"))
    margins = {
        "resnet50 time": [RESNET_S / resnet.seconds],
        "resnet50 memory": [RESNET_BYTES / resnet.peak_bytes],
        "bert base memory": [BERT_BYTES / bert.peak_bytes],
    }
    conclude_nearest("conversion_cost", margins)


def resnet50() -> dict[str, Any]:
    """The run of a ResNet-50."""
    return {
        "data": {"path": "benchmarks.conversion_cost:pictures"},
        "preprocessing": {"image_size": [224, 224], "normalization": "auto"},
        "model": {"name": "resnet50"},
    }


def bert_base(folder: Path) -> dict[str, Any]:
    """The run of a BERT-base; its texts and its tokenizer are written into the folder."""
    # Imports TensorFlow: what is measured of ResNet-50 has a machine for itself until then.
    from tfpipe.text.unicode_probe import probe_unicode
    from tfpipe.text.word_pieces import SPECIAL_TOKENS, WordPieceOptions, WordPieceTokenizer

    special = [*vars(SPECIAL_TOKENS).values(), "[MASK]"]
    words = [f"w{number}" for number in range(VOCABULARY - len(special))]
    tokenizer = WordPieceTokenizer([*special, *words], WordPieceOptions(), SPECIAL_TOKENS, probe_unicode())
    tokenizer.save(folder / "tokenizer")
    random = np.random.default_rng(0)
    for split, count in (("train", TRAINED_ON), ("validation", VALIDATED_ON)):
        texts = [" ".join(random.choice(words, LENGTH - 2)) for _ in range(count)]
        lines = [f"{text}\t{LABELS[number % len(LABELS)]}\n" for number, text in enumerate(texts)]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    return {
        "task": "text_classification",
        "data": {"path": str(folder / "train.tsv"), "validation_path": str(folder / "validation.tsv")},
        "preprocessing": {"tokenizer": str(folder / "tokenizer"), "max_length": LENGTH},
        "model": {"name": "bert", "num_layers": 12, "width": 768, "num_heads": 12, "feed_forward_width": 3072},
    }


def trained(settings: dict[str, Any], run: Path) -> Path:
    """The folder of a run of one step."""
    config = run.with_suffix(".yaml")
    store = {"uri": f"sqlite:///{run.parent}/mlflow.db"}
    # JSON is YAML.
    config.write_text(json.dumps({**settings, "training": ONE_STEP, "tracking": store, "output_dir": str(run)}))
    subprocess.run(
        [sys.executable, "-m", "tfpipe.train", "--config", str(config)], cwd=ROOT, check=True, timeout=PATIENCE_S
    )
    return run


def converted(run: Path) -> Cost:
    """What the conversion of a run takes."""
    cost = cost_of(
        [sys.executable, "-m", "tfpipe.convert", "--model", str(run), "--precision", "int8",
         "--output", f"{run}-bundle", f"tracking.uri=sqlite:///{run.parent}/mlflow.db", *ANY_SCORE],
        patience_s=PATIENCE_S,
    )  # fmt: skip
    if cost.code:
        sys.exit(f"the conversion of {run.name} ended with exit code {cost.code}")
    print(f"{run.name}: {cost.seconds:.0f} s, {cost.peak_bytes / GIB:.2f} GiB", flush=True)
    return cost


if __name__ == "__main__":
    main()
