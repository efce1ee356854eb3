"""A checkpoint -> the trained-model folder that its run would have left, had it ended there."""

import shutil
from pathlib import Path

from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError
from tfpipe.data.splits import Splits, open_splits
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts, load_model
from tfpipe.provenance import git_commit, library_versions
from tfpipe.settings import Config
from tfpipe.training import artifacts, checkpoints
from tfpipe.training.limits import limited
from tfpipe.training.modality import open_modality


def is_checkpoint(path: Path) -> bool:
    """Whether a path is OUTPUT_DIR/checkpoints/step-N."""
    return path.is_dir() and path.parent.name == "checkpoints" and path.name.startswith("step-")


def export_checkpoint(checkpoint: Path, destination: Path) -> Path:
    """Put together a trained-model folder with the weights of a checkpoint.

    Where the run has ended, the rest comes from its folder; else from its configuration and its data.

    Args:
        checkpoint: OUTPUT_DIR/checkpoints/step-N.
        destination: Folder to make.

    Returns:
        `destination`.

    Raises:
        CheckpointError: Damaged, or of another model.
        ConfigError: The run's configuration is not there.
        DataError: The run has not ended, and its data are not there.
    """
    output_dir = checkpoint.resolve().parent.parent
    if not (output_dir / "config.yaml").is_file():
        raise ConfigError(f"{checkpoint}: expected the run's config.yaml in {output_dir}, found none.")
    # The weights are in the checkpoint; pretrained ones need not be fetched.
    config = load_config(output_dir / "config.yaml", ["model.weights=random"])
    arrays, state = checkpoints.load(checkpoint)
    destination.mkdir(parents=True)
    shutil.copy(output_dir / "config.yaml", destination)
    complete = (output_dir / "result.json").is_file()
    parts = (
        load_model(output_dir / "model.keras")
        if complete
        else _rebuild(config, limited(open_splits(config), config), destination, output_dir)
    )
    artifacts.save_tokenizer(parts, destination)
    if complete:
        shutil.copytree(output_dir / "calibration", destination / "calibration")
        shutil.copy(output_dir / "validation.json", destination)
    checkpoints.restore({"model": parts.model.variables}, arrays, where=str(checkpoint))
    artifacts.save_model(parts, destination / "model.keras")
    card = {
        "task": config.task,
        "labels": list(parts.labels),
        "multi_label": parts.probabilities.multi_label,
        # A checkpoint is no registered version, whatever its run is registered as.
        "model_name": f"{output_dir.name}-{checkpoint.name}",
        "run_id": state.run_id,
        "metrics": state.history[-1] if state.history else {},
        "git_commit": git_commit(),
        "library_versions": library_versions(),
    }
    artifacts.save_model_card(destination / "model.json", card)
    return destination


def _rebuild(config: Config, splits: Splits, destination: Path, output_dir: Path) -> Parts:
    """The model as training built it, and what training would have saved of its data."""
    modality = open_modality(config, splits.train, World(), output_dir)
    artifacts.save_validation_index(destination / "validation.json", splits)
    artifacts.save_calibration(
        destination / "calibration", splits.train, seed=config.training.seed, max_pixels=config.data.max_image_pixels
    )
    return modality.build(config, modality.reader(splits.train), World())
