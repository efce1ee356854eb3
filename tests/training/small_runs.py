"""Small runs that train for real in a second or two."""

import numpy as np
import yaml
from PIL import Image

from tests.stores import new_store
from tfpipe.config import load_config

# Steps of the runs that are stopped and resumed: of six an epoch, in the middle of the second.
STOPPED_AT = 8


def write_class_folders(folder, *, num_samples=24, classes=("dark", "light"), size=(9, 8), seed=0):
    """Images whose brightness tells their class; class folders of PNG files."""
    rng = np.random.default_rng(seed)
    for index in range(num_samples):
        position = index % len(classes)
        low = 256 * position // len(classes)
        pixels = rng.integers(low, low + 256 // len(classes), (*size, 3), dtype=np.uint8)
        path = folder / classes[position] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def small_values(tmp_path, data, **training):
    """Raw values of a small run: an mlp on 8x8 rows, everything below `tmp_path`."""
    return {
        "data": {"path": str(data), "validation_fraction": 0.25},
        "preprocessing": {"image_size": [8, 8], "normalization": "none"},
        "model": {"name": "mlp"},
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, **training},
        "tracking": {"uri": new_store(tmp_path), "experiment": "small", "registered_model": "small"},
        "output_dir": str(tmp_path / "run"),
    }


def small_config(tmp_path, data, overrides=(), **training):
    """A small run as a Config; `overrides` as on the command line."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_values(tmp_path, data, **training)))
    return load_config(path, overrides)
