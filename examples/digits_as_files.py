"""Write the embedded digits as a folder of image files: data to try what is meant for your own.

python examples/digits_as_files.py data/digits         # 1,797 PNG files, a sub-folder a class
python examples/digits_as_files.py data/digits 20      # 20 of each class
"""

import sys
from collections import Counter
from pathlib import Path

from PIL import Image

from tfpipe.data.arrays import open_digits


def main(folder: str, per_class: int | None = None) -> None:
    """Write at most `per_class` files of each class; all of them where it is None."""
    digits = open_digits()
    written: Counter[str] = Counter()
    for index in range(len(digits)):
        pixels, label = digits.read(index)
        name = digits.labels[label]
        if per_class is None or written[name] < per_class:
            path = Path(folder) / name / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            written[name] += 1
    print(f"{folder}: {written.total():,} files of {len(written)} classes")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not all(word.isdecimal() for word in sys.argv[2:]):
        sys.exit("usage: python examples/digits_as_files.py FOLDER [FILES_PER_CLASS]")
    main(sys.argv[1], *map(int, sys.argv[2:]))
