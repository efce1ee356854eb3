"""A model as a run assembles it, with its initial weights."""

from tfpipe.config import parse_config
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization


def config_of(name="mlp", image_size=(8, 8), **sections):
    """A configuration of the image classifier `name`; further sections by name."""
    preprocessing = {"image_size": list(image_size), **sections.pop("preprocessing", {})}
    model = {"name": name, **sections.pop("model", {})}
    return parse_config(
        {"data": {"path": "digits"}, "preprocessing": preprocessing, "model": model, **sections}, where="test"
    )


def assembled(config=None, labels=("a", "b", "c")):
    """The whole model of a configuration; without one: an mlp on 8x8 rows."""
    config = config or config_of()
    network = build_network(config, len(labels))
    return assemble(build_preprocessing(config.preprocessing, Normalization((0.4,), (0.2,))), network, tuple(labels))
