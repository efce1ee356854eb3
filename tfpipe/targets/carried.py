"""What an exported folder carries so that a server that knows nothing of tfpipe can answer with it: code and pins."""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tfpipe
from tfpipe.core.bundle import Bundle
from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.tokenizer_files import read_folder

# What tfpipe imports to answer, by the name under which it is installed; any one of each tuple will do.
_LIBRARIES = (("numpy",), ("onnxruntime", "onnxruntime-gpu"), ("pillow",), ("simplejpeg",))
_TOKENIZER_LIBRARIES = {"bpe": ("tokenizers",), "sentencepiece": ("sentencepiece",)}


def copy_code(folder: Path) -> None:
    """Copy this very tfpipe into `folder`/tfpipe: what answers is what the bundle was proved with.

    Whole, as Python source of about 1 MB: a list of the modules that are needed would go stale unseen.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(tfpipe.__file__).parent, folder / "tfpipe", ignore=ignored)


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy the bundle, whole: a part of it would have another sha256 than what was proved."""
    shutil.copytree(bundle.folder, folder)


def labels_text(bundle: Bundle) -> str:
    """What a file of labels holds: one a line, in the order of the outputs.

    Raises:
        BundleError: A label that is more than one line.
    """
    for label in bundle.manifest.labels:
        if "\n" in label or "\r" in label:
            raise BundleError(
                f"{bundle.folder}: expected labels of one line, which labels.txt needs; received {label!r}."
            )
    return "".join(f"{label}\n" for label in bundle.manifest.labels)


def requirements(bundle: Bundle) -> list[str]:
    """What must be installed to answer with a bundle, each at the version that is installed here.

    Raises:
        ConfigError: One is not installed here.
        BundleError: The tokenizer cannot be read.
    """
    wanted = [*_LIBRARIES]
    kind = _tokenizer_kind(bundle)
    if kind in _TOKENIZER_LIBRARIES:
        wanted.append(_TOKENIZER_LIBRARIES[kind])
    return [_pin(names) for names in wanted]


def _pin(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return f"{name}=={version(name)}"
        except PackageNotFoundError:
            continue
    raise ConfigError(f"expected {' or '.join(names)} to be installed, found neither. pip install 'tfpipe[serve]'.")


def _tokenizer_kind(bundle: Bundle) -> str:
    folder = bundle.path(tokenizers.FOLDER)
    return read_folder(folder).kind if folder.is_dir() else ""
