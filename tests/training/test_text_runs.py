"""Runs over texts, in this process: resumed, refused, overwritten, and with what is added to plain training."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.training.small_text_runs import KINDS, text_run_config, write_texts
from tests.training.test_processes import assert_same_run, newest
from tfpipe.core.errors import ConfigError, DataError, StoppedError, TrainingError
from tfpipe.data.pipeline import training_batches
from tfpipe.data.text import TextRow, TextSource
from tfpipe.distributed import World
from tfpipe.lr_find import main as lr_find
from tfpipe.models.assembly import load_model
from tfpipe.text.tokenizer import open_saved
from tfpipe.train import train
from tfpipe.training.averaging import adopt_average
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.preparation import prepare
from tfpipe.training.signals import StopRequest
from tfpipe.training.tokenization import run_tokenizer

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(500)]

CLASS_WEIGHTS = {"single": "{sad: 3}", "multi": "{sad: 3, calm: 0.5}", "tags": "balanced"}
# The quickest to train; the others are trained in tests/test_texts_of_each_kind.py.
BPE = "preprocessing.tokenizer_kind=bpe"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of texts by kind of labels."""
    root = tmp_path_factory.mktemp("data")
    return {kind: write_texts(root / kind, kind, num_samples=60) for kind in KINDS}


def trained_loop(config, folder):
    """A loop of a configuration, run to its end; no tracking, no model is saved."""
    loop = prepare(config, World(), StopRequest()).loop
    loop.start_together()
    with CheckpointWriter(CheckpointFolder(folder, keep=1)) as writer:
        state = TrainingState()
        loop.run(state, writer, ())
    return loop, state


# Sittings -------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_with_the_texts_that_are_left_and_its_own_tokenizer(tmp_path, data, monkeypatch):
    options = {"epochs": 3, "batch_size": 4}
    overrides = [BPE, "model.dropout=0.2", "training.callbacks=['tests.training.user_code:StopAt']",
                 "tracking.registered_model=null"]  # fmt: skip
    runs = {}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        runs[name] = text_run_config(tmp_path / name, data["tags"], "tags", overrides, **options)
    train(runs["whole"])
    # 12 steps an epoch, by length: 17 is in the middle of the second.
    monkeypatch.setenv("STOP_AT", "17")
    with pytest.raises(StoppedError):
        train(runs["stopped"])
    before = open_saved(tmp_path / "stopped" / "run" / "tokenizer").files
    monkeypatch.delenv("STOP_AT")

    train(runs["stopped"], resume=True)

    resumed, undisturbed = (newest(tmp_path / name / "run") for name in ("stopped", "whole"))
    assert_same_run(resumed, undisturbed)
    assert resumed[1].samples_seen == 3 * 45
    for row, other in zip(resumed[1].history, undisturbed[1].history, strict=True):
        assert row["val_f1"] == pytest.approx(other["val_f1"], rel=1e-4)
    assert open_saved(tmp_path / "stopped" / "run" / "tokenizer").files == before


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["training.class_weights={gald: 2}"], ConfigError, r"received 'gald'\. Did you mean 'glad'\?"),
        (["training.monitor=val_f1"], ConfigError, "training.monitor: expected one of .*val_macro_f1"),
        (["model.name=bret"], ConfigError, "unknown model 'bret'. Did you mean 'bert'"),
        (
            [BPE, "preprocessing.vocabulary_size=99"],
            ConfigError,
            "preprocessing.tokenizer_kind, vocabulary_size or low",
        ),
        (["preprocessing.tokenizer=nowhere"], ConfigError, "'nowhere'"),
        (["data.path=/nowhere/at/all"], DataError, "nowhere"),
    ],
)
def test_a_run_that_is_refused_leaves_nothing_but_its_status(tmp_path, data, overrides, error, message):
    config = text_run_config(tmp_path, data["single"], "single", overrides)

    with pytest.raises(error, match=message):
        train(config)

    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == {"status.json"}
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == error.exit_code


def test_overwriting_trains_another_tokenizer_and_everything_at_once(tmp_path, data):
    first = train(text_run_config(tmp_path, data["single"], "single", [BPE]))
    left = open_saved(first.output_dir / "tokenizer")
    config = text_run_config(
        tmp_path, data["multi"], "multi",
        ["model.name=distilbert", "model.freeze_embeddings=true", "training.precision=mixed_bfloat16",
         "training.gradient_reduction=adasum", "training.ema_momentum=0.5", "training.layer_decay=0.9",
         "training.rematerialization=segments", "training.accumulation_steps=2", "training.label_smoothing=0.1",
         "training.class_weights=balanced", "training.metrics=['keras.metrics:BinaryAccuracy']"],
    )  # fmt: skip

    with pytest.raises(ConfigError, match="holds a complete run"):
        train(config)
    result = train(config, overwrite=True)

    parts = load_model(result.output_dir / "model.keras")
    assert parts.saved.sha256 != left.sha256
    assert parts.tokenizer.kind == "wordpiece"
    answer = np.asarray(parts.model(parts.inference().prepare("merry and weeping").rows[0][None], training=False))
    assert (answer.dtype, answer.shape) == (np.float32, (1, 3))
    assert ((answer > 0) & (answer < 1)).all()
    assert np.isfinite(result.metrics["val_loss"])
    # The share of labels that are right, where accuracy is that of texts all of whose labels are.
    assert result.metrics["val_binary_accuracy"] >= result.metrics["val_accuracy"]


def test_a_fast_dev_run_takes_texts_through_everything(tmp_path, data):
    result = train(text_run_config(tmp_path, data["tags"], "tags", [BPE]), fast_dev_run=True)

    assert result.output_dir == tmp_path / "fast-dev-run"
    assert load_model(result.output_dir / "model.keras").labels[0] == "O"


def test_the_learning_rate_finder_searches_on_texts(tmp_path, data, capsys):
    text_run_config(tmp_path, data["tags"], "tags", optimizer="sgd")
    before = {path.name for path in tmp_path.iterdir()}
    options = ["--steps", "30", "--lowest", "1e-4", "--highest", "1e5", "--output", str(tmp_path / "found")]

    code = lr_find(["--config", str(tmp_path / "config.yaml"), *options, BPE])

    assert code == 0
    found = json.loads((tmp_path / "found" / "lr_find.json").read_text())
    assert 1e-3 < found["suggestion"] < 100
    # Untrained, each of five tags is as probable; the loss is the mean over words.
    assert found["losses"][0] == pytest.approx(np.log(5), rel=0.1)
    assert {path.name for path in tmp_path.iterdir()} == before | {"found"}


# What is added to plain training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_train_as_the_whole_batch_does_with_everything_added(tmp_path, data, kind):
    loops = []
    for pieces in (1, 3):
        overrides = [BPE, f"training.class_weights={CLASS_WEIGHTS[kind]}", "training.label_smoothing=0.1",
                     "training.ema_momentum=0.6", "training.gradient_clip_norm=0.5", "training.weight_decay=0.01",
                     f"training.accumulation_steps={pieces}"]  # fmt: skip
        loop, state = trained_loop(text_run_config(tmp_path, data[kind], kind, overrides), tmp_path / str(pieces))
        adopt_average(loop.optimizer)
        loops.append(([v.numpy() for v in loop.parts.network.trainable_variables], state.history))

    (weights, history), (other_weights, other_history) = loops
    for weight, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-4)
    for row, other in zip(history, other_history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_gradient_is_the_mean_over_words_each_with_the_weight_of_its_tag(tmp_path, data):
    overrides = [BPE, "training.optimizer=sgd", "training.momentum=0", "training.label_smoothing=0.2",
                 "training.class_weights={B-PER: 5, O: 0.5}"]  # fmt: skip
    prepared = prepare(text_run_config(tmp_path, data["tags"], "tags", overrides), World(), StopRequest())
    network, variables = prepared.parts.network, prepared.parts.network.trainable_variables
    batch = next(iter(training_batches(prepared.train, batch_size=6, seed=0, epoch=0, world=World())))
    tags = prepared.parts.labels
    words = [
        (sample, tag, position)
        for sample, row in enumerate(batch.labels.numpy())
        for tag, position in row
        if -1 not in (tag, position)
    ]
    with tf.GradientTape() as tape:
        logits = network(batch.rows, training=True)
        losses = [
            tf.nn.softmax_cross_entropy_with_logits(0.8 * tf.one_hot(tag, 5) + 0.2 / 5, logits[sample, position])
            for sample, tag, position in words
        ]
        by_tag = [{"B-PER": 5.0, "O": 0.5}.get(tags[tag], 1.0) for _, tag, _ in words]
        loss = tf.add_n([w * one for w, one in zip(by_tag, losses, strict=True)]) / sum(by_tag)
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    expected = [v.numpy() - 0.1 * tf.convert_to_tensor(g).numpy() for v, g in zip(variables, gradients, strict=True)]

    sums, *_ = prepared.loop.training_step.at(0)(*batch, [0.0, 0.0], 0.1)

    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)
    # What is counted is not weighted by tag: texts, words, and their loss.
    np.testing.assert_allclose(sums[:3], [6, len(words), sum(float(one) for one in losses)], rtol=1e-5)


def test_the_precision_that_is_faster_is_found_with_texts_too(tmp_path, data):
    config = text_run_config(tmp_path, data["single"], "single", [BPE, "training.precision=auto"])

    loop = prepare(config, World(), StopRequest()).loop

    assert loop.config.training.precision in ("float32", "mixed_bfloat16", "mixed_float16")


def test_texts_that_are_too_long_are_left_out_of_a_run_and_counted(tmp_path, data):
    overrides = [BPE, "data.max_text_chars=100", "data.max_corrupt_fraction=1"]
    config = text_run_config(tmp_path, data["tags"], "tags", overrides, epochs=1)

    loop, state = trained_loop(config, tmp_path / "checkpoints")

    source = loop._train.source
    too_long = sum(len(source.text(index)) > 100 for index in range(len(source)))
    assert 0 < too_long < len(source)
    assert state.history[0]["corrupt_samples"] == too_long
    assert state.samples_seen == len(source) - too_long
    few = text_run_config(tmp_path, data["tags"], "tags", [*overrides, "data.max_corrupt_fraction=0.01"], epochs=1)
    with pytest.raises(TrainingError, match=r"max_corrupt_fraction: expected at most 1\.0% unreadable samples"):
        trained_loop(few, tmp_path / "other-checkpoints")


# The tokenizer --------------------------------------------------------------------------------------------------------


def source_of(texts, max_chars):
    rows = [TextRow(str(index), text, ("a",)) for index, text in enumerate(texts)]
    return TextSource(rows, ("a", "b"), kind="single", max_chars=max_chars, where="test")


def test_what_is_no_text_or_too_long_is_not_in_the_tokenizer_of_the_run(tmp_path, data):
    config = text_run_config(tmp_path, data["single"], "single", [BPE])
    readable = ["the quick fox", "sells sea shells"] * 3

    alone = run_tokenizer(config, source_of(readable, 20), World(), None)
    among = run_tokenizer(config, source_of(["half a pair \ud83d", *readable, "zyx " * 9], 20), World(), None)

    assert among.sha256 == alone.sha256


def test_a_tokenizer_that_was_made_before_is_taken_as_it_is(tmp_path, data):
    config = text_run_config(tmp_path, data["single"], "single", [BPE])
    made = run_tokenizer(config, source_of(["the quick fox"] * 3, 20), World(), None)
    made.write(tmp_path / "made")
    named = text_run_config(tmp_path, data["single"], "single", [f"preprocessing.tokenizer={tmp_path / 'made'}"])

    taken = run_tokenizer(named, source_of(["sells sea shells"], 20), World(), None)

    assert dict(taken.files) == dict(made.files)
    # That of the run's own folder comes first: an earlier sitting was trained with it.
    shutil.copytree(tmp_path / "made", tmp_path / "run" / "tokenizer")
    assert run_tokenizer(config, source_of(["sells sea shells"], 20), World(), tmp_path / "run").sha256 == made.sha256
