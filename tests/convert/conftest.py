import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.stores import new_store
from tests.training.small_runs import small_values, write_class_folders
from tfpipe.config import load_config

CLASSES = ("dark", "grey", "light")
PRUNED = [
    "model.name=mlp", "training.epochs=10", "training.learning_rate=0.01", "training.pruning.sparsity=0.8",
    "preprocessing.image_size=[8,8]", "preprocessing.augmentation.rotation=0", "tracking.registered_model=null",
    "conversion.latency_runs=3", "conversion.http_hop=false",
]  # fmt: skip


@pytest.fixture(scope="session")
def shades(tmp_path_factory):
    """Class folders of grey noise, whose mean tells the class."""
    return write_class_folders(tmp_path_factory.mktemp("shades"), num_samples=90, classes=CLASSES, size=(18, 13))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, shades):
    """A complete run of a small convolutional net of 1.1 MB, registered as `small`: (config, result).

    Tests that write to its store take `store`, a copy; those that damage its folder `run_copy`.
    """
    # Not with the fixtures: tests of graphs alone need no TensorFlow.
    from tfpipe.train import train

    folder = tmp_path_factory.mktemp("run")
    values = small_values(folder, shades, epochs=6, batch_size=16)
    values["preprocessing"] = {"image_size": [12, 12], "normalization": "adapt", "resize": "pad"}
    values["model"] = {"name": "small_cnn"}
    values["conversion"] = {"latency_runs": 3}
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    return config, train(config)


@pytest.fixture(scope="session")
def converted(tmp_path_factory, trained):
    """The first version of `small`, converted with its INT8 variant and attached."""
    from tfpipe.convert.pipeline import convert

    config, _ = trained
    output = tmp_path_factory.mktemp("bundles") / "small-1"
    return convert("models:/small/1", output=output, overrides=[f"tracking.uri={config.tracking.uri}"])


@pytest.fixture(scope="session")
def pruned(tmp_path_factory):
    """A run over the digits, which are grey, that pruned 80 %."""
    from tfpipe.train import train

    folder = tmp_path_factory.mktemp("pruned")
    return train(load_config(None, [*PRUNED, f"output_dir={folder}/run", f"tracking.uri={new_store(folder)}"]))


@pytest.fixture(scope="session")
def grey_bundle(pruned):
    """The bundle of `pruned`, with its INT8 variant."""
    from tfpipe.convert.pipeline import convert

    return convert(pruned.output_dir, output=pruned.output_dir.parent / "bundle").bundle


@pytest.fixture
def store(tmp_path_factory, trained, converted) -> str:
    """The address of a copy of the store, to be written to; it has the first version of `small` with its bundle."""
    address = trained[0].tracking.uri
    copied = shutil.copy(address.removeprefix("sqlite:///"), tmp_path_factory.mktemp("store"))
    return f"sqlite:///{copied}"


@pytest.fixture
def later_version(trained, store):
    """A further version of `small` in `store`, without a bundle: the same model, registered by a run of its own."""
    from mlflow import MlflowClient

    from tfpipe.registry import Registry

    result = trained[1]
    client = MlflowClient(store)
    run = client.create_run(client.get_run(result.run_id).info.experiment_id)
    card = json.loads((result.output_dir / "model.json").read_text())
    return Registry(store).register("small", run_id=run.info.run_id, folder=result.output_dir, metadata=card)


@pytest.fixture
def run_copy(tmp_path, trained) -> Path:
    """The output folder of the run, to be damaged."""
    return shutil.copytree(trained[1].output_dir, tmp_path / "copied-run")
