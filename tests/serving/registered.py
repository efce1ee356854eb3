"""A registered model in a real MLflow store, its versions small bundles; and a service that follows it."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from serving.app import create_app
from serving.keys_command import create_key
from serving.settings import ServingSettings
from tests.serving.bundles import make_bundle
from tests.serving.servers import Server, serving
from tests.stores import new_store
from tfpipe.registry import Registry
from tfpipe.store import connect

METADATA = {"created": "2026-01-01T00:00:00+00:00", "metrics": {"val_accuracy": 0.9}}
MODEL = "colours"


class Store:
    """A store with one registered model; version 1 is its champion.

    Args:
        folder: An empty one.
        versions: Arguments of `make_bundle` for each version, from 1 on.
    """

    def __init__(self, folder: Path, versions: Sequence[dict[str, Any]]) -> None:
        self.folder, self.uri = folder, new_store(folder)
        client = connect(self.uri)
        experiment = client.create_experiment("runs", artifact_location=(folder / "mlruns").as_uri())
        trained = folder / "trained"
        trained.mkdir()
        for name in ("config.yaml", "model.keras", "model.json"):
            (trained / name).write_text(name)
        registry = Registry(self.uri)
        for index, changes in enumerate(versions):
            run_id = client.create_run(experiment).info.run_id
            version = registry.register(MODEL, run_id=run_id, folder=trained, metadata=METADATA)
            bundle = make_bundle(folder / f"bundle-{index}", version=version.version, **changes)
            registry.attach_bundle(version, bundle)
        self.keys_file = folder / "keys.json"
        self.admin_key = create_key(self.keys_file, {"name": "operator", "scopes": ["admin", "predict"]})

    @contextlib.contextmanager
    def served(self, **settings: Any) -> Iterator[Server]:
        """A service that follows the store, which MLFLOW_TRACKING_URI must name; its client has the admin key."""
        given = {"api_keys_file": self.keys_file, "cache_dir": self.folder / "cache", "registry_poll_ms": 200}
        app = create_app(ServingSettings(registered_model=MODEL, **{**given, **settings}))
        with serving(app) as running:
            running.client.headers["Authorization"] = f"Bearer {self.admin_key}"
            yield running


def routing_of(client: httpx.Client) -> dict[str, Any]:
    """The document by which a service routes its only model."""
    (model,) = client.get("/admin/models").json()["models"]
    routing: dict[str, Any] = model["routing"]
    return routing


def metric(client: httpx.Client, name: str) -> dict[str, float]:
    """Samples of a metric: the text between its braces, and its value."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return {line[len(name) + 1 :].partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}
