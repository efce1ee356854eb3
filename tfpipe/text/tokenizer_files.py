"""A tokenizer's folder: one manifest, and files that are as it says.

tokenizer.json   kind, options, special tokens, format version, sha256 of every other file
vocabulary.*     what the kind's own library or ours reads
unicode.json     WordPiece: the character classes and foldings of the TensorFlow that trained
golden.jsonl     awkward texts with their ids
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.core import atomic
from tfpipe.core.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "tokenizer.json"


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that are not text, as the vocabulary spells them.

    Attributes:
        pad: Fills rows.
        start: Opens a row.
        end: Closes a row.
        unknown: Stands for what the vocabulary lacks.
    """

    pad: str
    start: str
    end: str
    unknown: str


@dataclass(frozen=True)
class StoredTokenizer:
    """A folder's content, checked against its manifest.

    Attributes:
        where: The folder, for error messages.
        kind: As the manifest has it.
        options: The kind's own.
        special_tokens: By role.
        files: Content by name.
    """

    where: str
    kind: str
    options: dict[str, Any]
    special_tokens: SpecialTokens
    files: dict[str, bytes]

    def file(self, name: str) -> bytes:
        """A file's content.

        Raises:
            BundleError: The manifest does not list it.
        """
        try:
            return self.files[name]
        except KeyError as error:
            raise BundleError(
                f"{self.where}: a {self.kind} tokenizer needs the file {name!r}; it is not here."
            ) from error


def write_folder(
    folder: Path,
    *,
    kind: str,
    options: Mapping[str, Any],
    special_tokens: SpecialTokens,
    files: Mapping[str, bytes],
) -> None:
    """Write the files, then the manifest that names them.

    Args:
        folder: Made if missing; other files in it stay.
        kind: "wordpiece", "bpe" or "sentencepiece".
        options: JSON values.
        special_tokens: By role.
        files: Content by name.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    for name, content in files.items():
        atomic.write_file(folder / name, content)
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "options": dict(options),
        "special_tokens": vars(special_tokens),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    # Last: a folder with a manifest is complete.
    atomic.write_file(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_folder(folder: Path) -> StoredTokenizer:
    """Read what `write_folder` wrote.

    Raises:
        BundleError: The folder is missing, holds no manifest of ours, or a file is not as the manifest says.
    """
    manifest = _manifest(folder / MANIFEST)
    try:
        return StoredTokenizer(
            where=str(folder),
            kind=manifest["kind"],
            options=dict(manifest["options"]),
            special_tokens=SpecialTokens(**manifest["special_tokens"]),
            files={name: _checked(folder, name, sha256) for name, sha256 in manifest["files"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder / MANIFEST}: expected a complete tokenizer manifest; {error}.") from error


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version = manifest["format_version"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path.parent}: expected a tokenizer's folder, but it has no {MANIFEST}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path}: expected the manifest of a tokenizer of tfpipe, received another file. "
            "Make one with `python -m tfpipe.data train-tokenizer`."
        ) from error
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: expected format version {FORMAT_VERSION}, received {version!r}. Convert the model again."
        )
    return manifest


def _checked(folder: Path, name: str, sha256: str) -> bytes:
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST}: files: expected names within the folder, received {name!r}.")
    path = folder / name
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BundleError(f"{path}: expected the file that {MANIFEST} lists; it is missing.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{path}: expected the content that {MANIFEST} lists, but the file was changed.")
    return content
