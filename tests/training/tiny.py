"""A network with every kind of state, small enough to be trained in a test."""

import keras


def network(input_shape, num_classes, config):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(2, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dropout(0.5, seed=config.training.seed, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(x))
