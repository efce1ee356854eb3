"""The model registry: versions of trained models, their bundles and their aliases, in any MLflow store.

A version is one trained model. Training registers it (`register`), conversion adds its bundle (`attach_bundle`), the
service reads it (`resolve`, `download_bundle`). What a version holds:

    run artefact model/             the trained-model folder; tag tfpipe.model commits it
    run artefact bundle/<id>/       the bundle; tag tfpipe.bundle, the sha256 of its bundle.json, commits it
    tags tfpipe.<key>               metadata (created, metrics, config, ...): text as it is, anything else as JSON;
                                    what is too long for a tag lies in the run artefact version_metadata/<key>, and
                                    the tag is runs:/<run>/version_metadata/<key>
    alias champion                  the version served by default; the first bundle of a name becomes it

An upload to MLflow is not atomic: a reader goes by the committing tags alone and checks what it downloads against them.
"""

import contextlib
import difflib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tfpipe.core import atomic, certificate
from tfpipe.core.bundle import Bundle, file_sha256, open_bundle
from tfpipe.core.criteria import missed_criteria
from tfpipe.core.errors import BundleError, RegistryError
from tfpipe.store import (
    VENDOR_ERRORS,
    Metric,
    MlflowClient,
    MlflowException,
    check_store,
    connect,
    reason,
    retrying,
    store_uri,
)

CHAMPION = "champion"
MODEL_TAG = "tfpipe.model"
BUNDLE_TAG = "tfpipe.bundle"
REQUIRED_METADATA = ("created", "metrics")
# The part of an output_dir that belongs to the version. Without validation data there is no validation.json.
MODEL_FILES = ("config.yaml", "model.keras", "model.json", "calibration", "validation.json", "tokenizer")

_MODEL_FOLDER = "model"
# MLflow servers up to 2.x refuse longer tags of a version.
_MAX_TAG_LENGTH = 5000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL_URI = re.compile(r"models:/(?P<name>[^/:@\"]+)(?:/(?P<version>\d+|latest)|@(?P<alias>[\w-]+))?")
T = TypeVar("T")


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
        name: Registered model.
        version: Its number, as text.
        run_id: The MLflow run that trained it; "" where another tool registered it without one.
        tags: All tags of the version.
        aliases: Names like "champion" that point to it.
    """

    name: str
    version: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Its name in commands, models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"

    @property
    def bundle_sha256(self) -> str | None:
        """Identity of its bundle; None before conversion."""
        return self.tags.get(BUNDLE_TAG)


class Registry:
    """Registered models of one store. Every method that asks it may raise TrackingError: the server is away.

    Args:
        uri: Tracking store; None: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db.
        retry_s: Seconds for which a server that is away is tried again, per call.
    """

    def __init__(self, uri: str | None = None, *, retry_s: float = 60.0) -> None:
        self.uri = store_uri(uri)
        self._retry_s = retry_s

    def names(self) -> list[str]:
        """Names of all registered models, sorted; RegistryError where there is no store."""
        return self._call(_all_names)

    def default_name(self, name: str | None) -> str:
        """The name asked for, else the only registered one; RegistryError where there are none or several."""
        if name is not None:
            return name
        names = self.names()
        if len(names) == 1:
            return names[0]
        known = f"there are {', '.join(names)}" if names else "none is registered; train first"
        raise RegistryError(
            f"registry at {self.uri}: expected the name of a model (--model, tracking.registered_model or "
            f"TFPIPE_REGISTERED_MODEL), received none; {known}."
        )

    def resolve(self, uri: str) -> ModelVersion:
        """The version that a URI names.

        Args:
            uri: "models:/NAME/VERSION", "models:/NAME@ALIAS", or the newest: "models:/NAME", "models:/NAME/latest".

        Raises:
            RegistryError: The URI is malformed, or there is no such model, version or alias; says what there is.
        """
        match = _MODEL_URI.fullmatch(uri)
        if match is None:
            raise RegistryError(f"expected models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME, received {uri!r}.")
        return self._call(lambda client: _find(client, uri, **match.groupdict()))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a name, newest first; RegistryError where there is no such name."""

        def read(client: MlflowClient) -> list[ModelVersion]:
            found = _versions(client, name)
            # The search leaves aliases out.
            aliases = _aliases(client, f"models:/{name}", name)
            of = [[alias for alias, version in aliases.items() if str(version) == str(one.version)] for one in found]
            return [replace(_known(one), aliases=tuple(sorted(its))) for one, its in zip(found, of, strict=True)]

        return self._call(read)

    def version_of(self, folder: Path) -> ModelVersion:
        """The newest version, of whichever name, whose trained model is that of a folder, byte for byte.

        Raises:
            RegistryError: There is no such version, or the folder is no trained-model folder.
        """
        of_folder = f"tags.`{MODEL_TAG}` = '{_folder_sha256(folder, _model_files(folder))}'"
        found = self._call(lambda client: _pages(client.search_model_versions, filter_string=of_folder))
        if not found:
            raise RegistryError(f"registry at {self.uri}: expected a version with the model of {folder}, found none.")
        return _known(max(found, key=lambda version: int(version.creation_timestamp)))

    def log_model(self, *, run_id: str, folder: Path) -> None:
        """Upload a trained model into its run, without a version.

        Raises:
            RegistryError: Files are missing, or an unknown run.
        """
        files = _model_files(folder)
        self._call(lambda client: _upload_model(client, run_id, folder, files))

    def register(self, name: str, *, run_id: str, folder: Path, metadata: Mapping[str, Any]) -> ModelVersion:
        """Upload a trained model into its run and give it a version.

        A run has one version: where it is registered already (a resumed run), that version is the answer.

        Args:
            name: Letters, digits, `.`, `_`, `-`; made if it does not exist.
            run_id: The MLflow run that trained it.
            folder: The trained-model folder (`MODEL_FILES`).
            metadata: Becomes tags of the version, JSON values; `REQUIRED_METADATA` at least. The configuration is
                taken from the folder.

        Raises:
            RegistryError: Bad name, files or metadata missing, or an unknown run; nothing is registered.
        """
        if not _NAME.fullmatch(name):
            raise RegistryError(
                f"registered model: expected 1 to 128 letters, digits, '.', '_' or '-', received {name!r}."
            )
        missing = [key for key in REQUIRED_METADATA if key not in metadata]
        if missing:
            raise RegistryError(f"{name}: expected metadata with {', '.join(missing)}, received none.")
        files = _model_files(folder)
        return self._call(lambda client: _register(client, name, run_id, folder, files, metadata))

    def download_model(self, version: ModelVersion, destination: Path) -> Path:
        """Download the trained-model folder, checked against what was registered.

        Args:
            version: A version that tfpipe registered.
            destination: Folder to make, and the answer; appears whole or not at all.

        Raises:
            RegistryError: The version holds no trained model, or not what was registered.
        """
        expected = version.tags.get(MODEL_TAG)
        if expected is None:
            raise RegistryError(f"{version.uri}: expected a version that tfpipe registered, found no tag {MODEL_TAG}.")
        if destination.exists():
            raise RegistryError(f"{destination}: expected a new folder, found an existing one.")
        destination.parent.mkdir(parents=True, exist_ok=True)
        with self._downloaded(version, _MODEL_FOLDER, beside=destination) as incoming:
            received = _folder_sha256(incoming, _model_files(incoming))
            if received != expected:
                raise RegistryError(
                    f"{version.uri}: expected a model with sha256 {expected[:12]}…, received {received[:12]}…. "
                    "Its artefacts were changed after it was registered; train it again."
                )
            _move_into_place(incoming, destination)
        return destination

    def attach_bundle(self, version: ModelVersion, folder: Path) -> bool:
        """Upload a bundle into the version's run with the figures of its certificate, then commit it with a tag.

        Returns:
            True if the version is `champion` now; the first one of its name with a bundle becomes it.

        Raises:
            BundleError: The folder is no complete bundle.
            RegistryError: The version belongs to no run.
        """
        bundle = open_bundle(folder)
        if not version.run_id:
            raise RegistryError(f"{version.uri}: expected a version that tfpipe registered, found one without a run.")
        return self._call(lambda client: _attach(client, version, bundle))

    def download_bundle(self, version: ModelVersion, cache_dir: Path) -> Path:
        """The version's bundle in `cache_dir`/<sha256>, downloaded unless it is there and whole.

        Raises:
            RegistryError: The version has no bundle, or its artefacts are not what was attached.
        """
        sha256 = version.bundle_sha256
        if sha256 is None:
            raise RegistryError(
                f"{version.uri}: expected a version with a bundle, found none. "
                f"Convert it: python -m tfpipe.convert --model {version.uri}"
            )
        target = cache_dir / sha256
        if _holds(target, sha256):
            return target
        cache_dir.mkdir(parents=True, exist_ok=True)
        with self._downloaded(version, _bundle_artifact(sha256), beside=target) as incoming:
            if not _holds(incoming, sha256):
                raise RegistryError(
                    f"{version.uri}: expected the bundle {sha256[:12]}…, received a damaged one. "
                    f"Convert it again: python -m tfpipe.convert --model {version.uri}"
                )
            # Another process may have put the same bundle there meanwhile.
            if not _holds(target, sha256):
                _move_into_place(incoming, target)
        return target

    @contextlib.contextmanager
    def _downloaded(self, version: ModelVersion, artifact: str, *, beside: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=beside.parent, prefix=f".{beside.name}.") as temporary:

            def download(client: MlflowClient) -> Path:
                if not client.list_artifacts(version.run_id, artifact):
                    raise RegistryError(f"{version.uri}: expected the artefact {artifact!r} of its run, found none.")
                try:
                    return Path(client.download_artifacts(version.run_id, artifact, temporary))
                except MlflowException:
                    # MLflow keeps the cause to itself: a full disk would read as a path that is wrong.
                    _check_room(Path(temporary), _num_bytes(client, version, artifact), of=version.uri)
                    raise

            yield self._call(download)

    def _call(self, function: Callable[[MlflowClient], T]) -> T:
        check_store(self.uri)
        try:
            return retrying(lambda: function(connect(self.uri)), uri=self.uri, retry_s=self._retry_s)
        except VENDOR_ERRORS as error:
            raise RegistryError(f"registry at {self.uri}: {reason(error)}") from error


def register_if_good(
    registry: Registry,
    name: str | None,
    *,
    run_id: str,
    folder: Path,
    metrics: Mapping[str, float],
    min_metrics: Mapping[str, float],
    metadata: Mapping[str, Any],
) -> ModelVersion | None:
    """Register the model of a completed run; one without a name, or that misses its criteria, is uploaded only.

    Args are those of `Registry.register` and `tfpipe.core.criteria.missed_criteria`; `metrics` joins the metadata.

    Returns:
        The version; None where it was not registered.
    """
    if name is None or missed_criteria(metrics, min_metrics):
        registry.log_model(run_id=run_id, folder=folder)
        return None
    return registry.register(name, run_id=run_id, folder=folder, metadata={**metadata, "metrics": dict(metrics)})


def _all_names(client: MlflowClient) -> list[str]:
    return sorted(model.name for model in _pages(client.search_registered_models))


def _pages(search: Callable[..., Any], **filters: Any) -> list[Any]:
    page = search(**filters)
    found = list(page)
    while page.token:
        page = search(**filters, page_token=page.token)
        found += page
    return found


def _versions(client: MlflowClient, name: str) -> list[Any]:
    """All versions of a name, newest first."""
    found = _pages(client.search_model_versions, filter_string=f'name="{name}"')
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def _known(version: Any) -> ModelVersion:
    return ModelVersion(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        tags=dict(version.tags),
        aliases=tuple(sorted(version.aliases)),
    )


def _aliases(client: MlflowClient, uri: str, name: str) -> dict[str, Any]:
    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _not_among(uri, name, _all_names(client), "registered models") from error


def _num_bytes(client: MlflowClient, version: ModelVersion, artifact: str) -> int:
    found = client.list_artifacts(version.run_id, artifact)
    return sum(_num_bytes(client, version, one.path) if one.is_dir else one.file_size or 0 for one in found)


def _check_room(incoming: Path, num_bytes: int, *, of: str) -> None:
    missing = num_bytes - sum(file.stat().st_size for file in incoming.rglob("*") if file.is_file())
    try:
        with tempfile.TemporaryFile(dir=incoming) as file:
            os.posix_fallocate(file.fileno(), 0, max(missing, 1))
    except OSError as error:
        raise RegistryError(
            f"{incoming.parent}: expected room for the {num_bytes / 1e6:.1f} MB of {of}; {error.strerror}."
        ) from error


def _find(client: MlflowClient, uri: str, name: str, version: str | None, alias: str | None) -> ModelVersion:
    aliases = _aliases(client, uri, name)
    versions = [str(found.version) for found in _versions(client, name)]
    if alias == CHAMPION and not aliases:
        raise RegistryError(
            f"{uri}: expected a version with the alias {CHAMPION!r}, found none. The first version that is converted "
            f"becomes it: python -m tfpipe.convert --model models:/{name}"
        )
    if alias is not None and alias not in aliases:
        raise _not_among(uri, alias, sorted(aliases), f"aliases of {name!r}")
    wanted = str(aliases[alias]) if alias is not None else version
    if wanted in (None, "latest") and versions:
        wanted = versions[0]
    number = str(int(wanted)) if wanted is not None and wanted.isdecimal() else ""
    if number not in versions:
        raise _not_among(uri, wanted or "latest", versions, f"versions of {name!r}")
    return _known(client.get_model_version(name, number))


def _not_among(uri: str, wanted: str, known: Sequence[str], plural: str) -> RegistryError:
    if not known:
        return RegistryError(f"{uri}: received {wanted!r}, but there are no {plural}.")
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return RegistryError(f"{uri}: expected one of the {plural} ({shown}), received {wanted!r}.{hint}")


def _register(
    client: MlflowClient, name: str, run_id: str, folder: Path, files: Sequence[str], metadata: Mapping[str, Any]
) -> ModelVersion:
    for version in _versions(client, name):
        if version.run_id == run_id:
            return _known(version)
    source = _upload_model(client, run_id, folder, files)
    described = {"config": (folder / "config.yaml").read_text(encoding="utf-8"), **metadata}
    tags = {f"tfpipe.{key}": _tag(client, run_id, key, value) for key, value in described.items()}
    tags[MODEL_TAG] = _folder_sha256(folder, files)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(name, source, run_id, tags=tags, await_creation_for=0)
    return _known(client.get_model_version(name, created.version))


def _upload_model(client: MlflowClient, run_id: str, folder: Path, files: Sequence[str]) -> str:
    """Upload into the run; gives the address of the uploaded folder."""
    run = client.get_run(run_id)
    for file in files:
        client.log_artifact(run_id, str(folder / file), str(Path(_MODEL_FOLDER, file).parent))
    return f"{run.info.artifact_uri}/{_MODEL_FOLDER}"


def _tag(client: MlflowClient, run_id: str, key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= _MAX_TAG_LENGTH:
        return text
    file = f"version_metadata/{key}"
    client.log_text(run_id, text, file)
    return f"runs:/{run_id}/{file}"


def _attach(client: MlflowClient, version: ModelVersion, bundle: Bundle) -> bool:
    client.log_artifacts(version.run_id, str(bundle.folder), _bundle_artifact(bundle.sha256))
    now = int(time.time() * 1e3)
    metrics = [Metric(name, value, now, 0) for name, value in _figures(bundle).items()]
    client.log_batch(version.run_id, metrics=metrics)
    client.set_model_version_tag(version.name, version.version, BUNDLE_TAG, bundle.sha256)
    champion = client.get_registered_model(version.name).aliases.get(CHAMPION)
    converted = [str(found.version) for found in _versions(client, version.name) if BUNDLE_TAG in found.tags]
    # A name whose champion was taken away on purpose has other bundles, and gets none by itself.
    if champion is None and converted == [version.version]:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
        return True
    return str(champion) == version.version


def _figures(bundle: Bundle) -> dict[str, float]:
    """What a bundle was measured at, by names under which MLflow shows and compares them."""
    figures: dict[str, float] = {}
    for name, variant in bundle.manifest.variants.items():
        figures[f"conversion/{name}/size_bytes"] = float(variant.size_bytes)
        figures |= {f"conversion/{name}/{metric}": value for metric, value in variant.metrics.items()}
        figures |= {f"conversion/{name}/latency_ms_batch_{size}": ms for size, ms in variant.latency_ms.items()}
    path = bundle.path(certificate.FILE)
    if path.is_file():
        for hop in certificate.Certificate.from_json(path.read_text(encoding="utf-8"), where=str(path)).hops:
            measured = {
                "max_abs_diff": hop.max_abs_diff,
                "mean_abs_diff": hop.mean_abs_diff,
                "agreement": hop.agreement,
            }
            figures |= {f"certificate/{hop.name}/{key}": value for key, value in measured.items() if value is not None}
    return figures


def _bundle_artifact(sha256: str) -> str:
    return f"bundle/{sha256[:12]}"


def _holds(folder: Path, sha256: str) -> bool:
    try:
        return open_bundle(folder).sha256 == sha256
    except BundleError:
        return False


def _move_into_place(incoming: Path, target: Path) -> None:
    with atomic.staged_folder(target, replace=True) as staging:
        for child in incoming.iterdir():
            child.rename(staging / child.name)


def _model_files(folder: Path) -> list[str]:
    """Paths of the trained-model files, relative to `folder`, sorted."""
    for name in ("config.yaml", "model.keras", "model.json"):
        if not (folder / name).is_file():
            raise RegistryError(f"{folder}: expected a trained-model folder, found no {name}.")
    paths = [folder / name for name in MODEL_FILES]
    found = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
    return sorted(file.relative_to(folder).as_posix() for file in found)


def _folder_sha256(folder: Path, files: Sequence[str]) -> str:
    """Hex sha256 of what `sha256sum` prints for the files, in order."""
    lines = [f"{file_sha256(folder / file)}  {file}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
