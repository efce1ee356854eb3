import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.convert.onnx_graphs import SIDE, answers, graph_of
from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.gate import Figures, missed_limits
from tfpipe.convert.quantize import Quantizer
from tfpipe.convert.recipe import default_recipes
from tfpipe.convert.search import Budget, explore, short_plan
from tfpipe.convert.trial import Trial, choose
from tfpipe.convert.weights import weight_bytes

CONFIG = ConversionConfig()
TRAINING, CALIBRATION, HELD_OUT = 500, 48, 400


def _features(weights):
    """What the last layer sees: two convolutions, the second of each channel by itself or of all."""
    group = len(weights["first"]) if weights["second"].shape[1] == 1 else 1
    return [
        helper.make_node("Transpose", ["input"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first", "shift"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "second"], ["d"], name="second", group=group, strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["e"], name="relu2"),
    ]


def _fitted(features, labels, num_classes):
    """Kernel and bias of a dense layer by ridge regression on the classes."""
    with_one = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    # A tenth of the mean feature's square, which keeps the last layer from its noise.
    penalty = 0.1 * len(features) * np.square(with_one).mean()
    gram = with_one.T @ with_one + penalty * np.eye(with_one.shape[1])
    solved = np.linalg.solve(gram, with_one.T @ (8.0 * np.eye(num_classes)[labels]))
    return solved[:-1].astype(np.float32), solved[-1].astype(np.float32)


@st.composite
def trained_networks(draw):
    """A classifier of noisy pictures that has learnt them: (graph, calibration rows, two sets of held-out samples)."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_classes, width = draw(st.integers(2, 5)), draw(st.sampled_from([8, 16]))
    spread = draw(st.floats(0.3, 3.0))
    means = random.normal(0, 1, (num_classes, SIDE, SIDE, 3))

    def samples(count):
        labels = random.integers(0, num_classes, count)
        return (means[labels] + random.normal(0, spread, means[labels].shape)).astype(np.float32), labels

    second = (width, 1, 3, 3) if draw(st.booleans()) else (width, width, 3, 3)
    weights = {"first": random.normal(0, 0.3, (width, 3, 3, 3)), "shift": random.normal(0, 0.1, width)}
    # Channels of one weight differ in range, as they do in trained networks.
    weights["second"] = random.normal(0, 0.2, second) * random.uniform(0.2, 3, (width, 1, 1, 1))
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    rows, labels = samples(TRAINING)
    flat = helper.make_node("Flatten", ["e"], ["probabilities"], name="flat")
    size = width * 9
    seen = answers(graph_of([*_features(weights), flat], weights, num_outputs=size), rows)
    kernel, bias = _fitted(seen, labels, num_classes)
    last = [
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "dense", "bias"], ["logits"], name="dense"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
    ]
    weights |= {"dense": kernel, "bias": bias}
    model = graph_of([*_features(weights), *last], weights, num_outputs=num_classes)
    return model, rows[:CALIBRATION], samples(HELD_OUT), samples(HELD_OUT)


def _right(model, samples):
    rows, labels = samples
    return answers(model, rows).argmax(axis=1) == labels


# Feature: deep-learning-pipeline, Property 11: Quantization accuracy
@settings(max_examples=100, deadline=None, derandomize=True)
@given(network=trained_networks(), operators=st.sampled_from(["all", "products"]))
def test_what_passes_as_int8_is_as_accurate_as_fp32_within_the_threshold(network, operators):
    model, calibration, validation, unseen = network
    graphs = {}
    with Quantizer(model, [{"input": calibration[i : i + 8]} for i in range(0, CALIBRATION, 8)]) as quantizer:

        def examine(contender):
            graph = quantizer.quantize(contender.recipe) if contender.recipe else model
            graphs[contender] = graph
            score = float(_right(graph, validation).mean())
            figures = Figures(contender.precision, graph.ByteSize(), weight_bytes(graph), score)
            return Trial(contender, figures, latency_ms={"1": {"p50": 1.0}})

        found = explore(
            short_plan(default_recipes(CONFIG, operators)),
            examine,
            lambda figures, reference: missed_limits(figures, reference, CONFIG),
            budget=Budget(max_trials=100),
        )
    chosen = choose(found.trials, may=lambda contender: contender.precision == "int8")

    # One of the family's recipes always does, without a search.
    assert chosen is not None
    fp32, int8 = (_right(graph, validation) for graph in (model, graphs[chosen.contender]))
    # Guessing is right one time in five at least.
    assert fp32.mean() > 0.5
    assert fp32.mean() - int8.mean() <= CONFIG.max_metric_drop
    # On samples that had no say in it: as far as so few of them can tell.
    fp32, int8 = (_right(graph, unseen) for graph in (model, graphs[chosen.contender]))
    chance = 3 * np.sqrt((fp32 != int8).sum()) / HELD_OUT
    assert fp32.mean() - int8.mean() <= CONFIG.max_metric_drop + chance
