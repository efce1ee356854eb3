"""Metrics of a user; tests/workers has them on several workers."""

import numpy as np
import pytest

from tests.training.loops import small_loop, trained
from tfpipe.core.errors import ConfigError
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.training.user_metrics import build_metrics, check_metrics
from tfpipe.training_settings import TrainingConfig

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

TASK = SingleLabel(("a", "b", "c"))


def built(*names):
    return build_metrics(
        TrainingConfig(metrics=[name if ":" in name else f"tests.training.user_code:{name}" for name in names]), TASK
    )


def test_functions_classes_and_factories_become_metrics_of_the_validation_data(tmp_path):
    names = ["tests.training.user_code:confidence", "tests.training.user_code:top_two",
             "keras.metrics:SparseCategoricalAccuracy"]  # fmt: skip
    loop = small_loop(metrics=names, epochs=1)

    metrics = trained(loop, tmp_path).history[-1]

    reader = loop._validation
    indices = np.arange(len(reader.source))
    rows, labels = reader.read(indices)[0], reader.labels(indices)
    scores = np.asarray(loop.parts.model(rows, training=False))
    assert metrics["val_confidence"] == pytest.approx(scores[indices, labels].mean(), rel=1e-5)
    top_two = [label in row.argsort()[-2:] for label, row in zip(labels, scores, strict=True)]
    assert metrics["val_top_two"] == pytest.approx(np.mean(top_two))
    assert metrics["val_sparse_categorical_accuracy"] == pytest.approx(metrics["val_accuracy"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no_such"], "training.metrics: expected package.module:function that can be imported"),
        (["impatient"], "to give a Keras metric, received"),
        (["top_two", "top_two"], "expected names of their own, received 'top_two' twice"),
        (["keras.metrics:MeanMetricWrapper"], "to be called without arguments"),
    ],
)
def test_what_is_no_metric_is_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        built(*names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Largest", "'largest': expected a state that is a sum over examples"),
        ("recall_of_each_class", "'f1': expected (one number|a metric)"),
        ("broken_loss", "'broken_loss': expected a metric of .* but it fails"),
        ("Branching", "'mean': expected a metric of .* but it fails: OperatorNotAllowedInGraphError"),
    ],
)
def test_a_metric_that_cannot_be_put_together_is_refused_before_training(name, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics(built(name), TASK)


def test_kerass_counting_metrics_pass(tmp_path):
    check_metrics(built("confidence", "top_two", "keras.metrics:SparseCategoricalCrossentropy"), TASK)
