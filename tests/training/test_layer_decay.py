"""Learning rates that fall from the head down."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.assembled import config_of
from tests.models.text_networks import text_config, text_network, token_rows
from tfpipe.distributed import World
from tfpipe.models.assembly import build_network
from tfpipe.models.depth import layer_units
from tfpipe.training.averaging import averaged
from tfpipe.training.recipe import build_optimizer

pytestmark = pytest.mark.tensorflow

RATE, DECAY, WEIGHT_DECAY = 0.1, 0.5, 0.2
# Of `network`: head, middle, lowest.
FACTORS = (1.0, 0.5, 0.25)


def network():
    """Three dense layers whose weights are all ones."""
    rows = keras.Input((2,))
    x = keras.layers.Dense(2, name="low")(rows)
    x = keras.layers.Dense(2, name="middle")(x)
    model = keras.Model(rows, keras.layers.Dense(2, name="logits")(x))
    for weight in model.weights:
        weight.assign(tf.ones(weight.shape))
    return model


def optimizer_of(model, name, *, layer_decay=DECAY, **training):
    training = {"optimizer": name, "learning_rate": RATE, "layer_decay": layer_decay, **training}
    return build_optimizer(text_config(training=training).training, model, World())


def step(optimizer, model, gradient):
    """An update in which every entry of every gradient is the same."""
    variables = model.trainable_variables
    optimizer.apply_sums([tf.fill(v.shape, gradient) for v in variables], variables, tf.ones((1,)))


def kernels(model):
    """One entry of each kernel, and of each bias, from the head down."""
    layers = [model.get_layer(name) for name in ("logits", "middle", "low")]
    return [float(layer.kernel[0, 0]) for layer in layers], [float(layer.bias[0]) for layer in layers]


def by_hand(name, gradients, rate, weight_decay):
    """A weight that began at 1, after updates by the published rules in plain Python.

    Sources: SGD with momentum as Keras documents it; Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; decoupled weight
    decay, Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    weight, first, second = 1.0, 0.0, 0.0
    for count, gradient in enumerate(gradients, 1):
        weight -= rate * weight_decay * weight
        if name == "sgd":
            first = 0.9 * first - rate * gradient
            weight += first
            continue
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight -= rate * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)) ** 0.5 + 1e-7)
    return weight


@pytest.mark.parametrize(
    ("name", "weight_decay"), [("sgd", 0.0), ("sgd", WEIGHT_DECAY), ("adam", 0.0), ("adamw", WEIGHT_DECAY)]
)
def test_a_layer_k_below_the_head_trains_with_its_share_of_the_learning_rate(name, weight_decay):
    model = network()
    optimizer = optimizer_of(model, name, weight_decay=weight_decay)
    gradients = [0.3, -1.1, 0.7]

    for gradient in gradients:
        step(optimizer, model, gradient)

    received, biases = kernels(model)
    expected = [by_hand(name, gradients, RATE * factor, weight_decay) for factor in FACTORS]
    np.testing.assert_allclose(received, expected, rtol=1e-4)
    # No weight decay on biases, at any depth.
    np.testing.assert_allclose(biases, [by_hand(name, gradients, RATE * factor, 0.0) for factor in FACTORS], rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_without_decay_all_layers_train_alike(name):
    model = network()
    optimizer = optimizer_of(model, name, layer_decay=1.0, weight_decay=WEIGHT_DECAY if name == "adamw" else 0.0)

    step(optimizer, model, 0.3)

    assert len(set(kernels(model)[0])) == 1


def test_the_schedule_scales_every_layer():
    model = network()
    optimizer = optimizer_of(model, "sgd", momentum=0.0)

    optimizer.learning_rate.assign(0.4)
    step(optimizer, model, 1.0)

    np.testing.assert_allclose(kernels(model)[0], [1 - 0.4 * factor for factor in FACTORS], rtol=1e-6)


def test_it_holds_in_a_compiled_step_and_adds_no_state():
    model, plain = network(), network()
    optimizer, other = optimizer_of(model, "adamw"), optimizer_of(plain, "adamw", layer_decay=1.0)

    tf.function(lambda: step(optimizer, model, 0.3))()

    assert [(v.name, v.shape) for v in optimizer.variables] == [(v.name, v.shape) for v in other.variables]
    np.testing.assert_allclose(kernels(model)[0], [by_hand("adam", [0.3], RATE * f, 0.0) for f in FACTORS], rtol=1e-4)


def test_a_run_that_goes_on_from_its_state_takes_the_same_steps():
    whole, resumed = network(), network()
    first, second = optimizer_of(whole, "adamw"), optimizer_of(resumed, "adamw")
    step(first, whole, 0.3)

    # As a checkpoint does.
    for target, value in zip([*resumed.weights, *second.variables], [*whole.weights, *first.variables], strict=True):
        target.assign(value)
    for optimizer, model in ((first, whole), (second, resumed)):
        step(optimizer, model, -0.8)

    assert kernels(resumed) == kernels(whole)


def test_the_moving_average_follows_the_weights_that_were_updated():
    model = network()
    optimizer = optimizer_of(model, "sgd", momentum=0.0, ema_momentum=0.5)

    step(optimizer, model, 1.0)
    step(optimizer, model, 1.0)

    # The first update sets it to the weights.
    with averaged(optimizer):
        averages = kernels(model)[0]
    first, second = ([1 - RATE * factor * steps for factor in FACTORS] for steps in (1, 2))
    np.testing.assert_allclose(averages, [0.5 * a + 0.5 * b for a, b in zip(first, second, strict=True)], rtol=1e-5)


def test_a_variable_outside_of_any_layer_trains_as_the_head():
    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

        def call(self, rows):
            return self.dense(rows) * self.scale

    model = Scaled()
    model(tf.ones((1, 2)))

    step(optimizer_of(model, "sgd", momentum=0.0), model, 1.0)

    assert float(model.scale) == pytest.approx(1 - RATE)


def test_a_network_of_images_learns_most_in_its_head():
    model = build_network(config_of("mlp"), 3)
    before = current(model)

    step(optimizer_of(model, "adam"), model, 1.0)

    moved = {path: float(np.abs(now - before[path]).max()) for path, now in current(model).items()}
    factors = {"logits": 1.0, "dense64": DECAY, "dense128": DECAY**2}
    assert moved == pytest.approx({path: RATE * factors[path.split("/")[0]] for path in moved}, rel=1e-3)


def current(model):
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


@pytest.mark.parametrize("name", ["bert", "text_bilstm"])
def test_a_network_of_texts_learns_least_in_its_embeddings(name):
    model = text_network(name)
    optimizer = optimizer_of(model, "adam")
    rows = token_rows(9, 4)
    before = current(model)

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(rows, training=True) - 1.0))
    variables = model.trainable_variables
    optimizer.apply_sums(tape.gradient(loss, [v.value for v in variables]), variables, tf.ones((1,)))

    # Adam's first update moves each weight by the learning rate.
    units = layer_units(model)
    for below, unit in enumerate(reversed(units)):
        moved = max(np.abs(v.numpy() - before[v.path]).max() for layer in unit for v in layer.trainable_variables)
        assert moved == pytest.approx(RATE * DECAY**below, rel=0.02), unit[0].name
