"""Keras models as other people train and save them, small enough to train in a second."""

import keras
import numpy as np
from keras import layers

CLASSES = ("dark", "grey", "light")


def shades(*, channels=3, num_samples=96, size=12, seed=0):
    """Noise whose brightness tells its class: (pixels 0..255 float32, labels)."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_samples) % len(CLASSES)
    low = 256 * labels // len(CLASSES)
    pixels = low[:, None, None, None] + random.integers(0, 85, (num_samples, size, size, channels))
    return pixels.astype(np.float32), labels


def functional(*, size=12, channels=3, rescaling=True, logits=False, resizing=None):
    """A functional network with batch normalisation and dropout, which a leak of training mode would change."""
    image = keras.Input((None, None, channels) if resizing else (size, size, channels), name="image")
    x = layers.Resizing(*resizing)(image) if resizing else image
    x = layers.Rescaling(1 / 255)(x) if rescaling else x
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(96, activation="relu", name="embedding")(x)
    x = layers.Dropout(0.5)(x)
    answers = layers.Dense(len(CLASSES), activation=None if logits else "softmax", name="answers")(x)
    return keras.Model(image, answers, name="shades")


def fitted(model, *, scale=1.0, logits=False, epochs=12, binary=False, **data):
    """The model, trained on `shades`; `binary`: whether a picture is light."""
    keras.utils.set_random_seed(0)
    pixels, labels = shades(**data)
    kind = "binary_crossentropy" if binary else keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.Adam(0.01), kind)
    model.fit(pixels * scale, labels == 2 if binary else labels, epochs=epochs, batch_size=16, verbose=0)
    return model


def rain():
    """Three inputs, two of them integers, and two outputs by name."""
    keras.utils.set_random_seed(1)
    wind = keras.Input((4,), name="wind")
    words = keras.Input((None,), dtype="int32", name="words")
    radar = keras.Input((6, 6, 3), dtype="uint8", name="radar")
    said = layers.GlobalAveragePooling1D()(layers.Embedding(20, 8)(words))
    seen = layers.Flatten()(layers.Rescaling(1 / 255)(radar))
    x = layers.Dense(64, activation="relu")(layers.Concatenate()([wind, said, seen]))
    amount = layers.Dense(2)(x)
    kind = keras.ops.argmax(layers.Dense(5)(x), axis=-1)
    return keras.Model([wind, words, radar], {"kind": kind, "amount": amount}, name="rain")


def rain_samples(num_samples=24):
    random = np.random.default_rng(2)
    return {
        "wind": random.random((num_samples, 4), np.float32),
        "words": random.integers(0, 20, (num_samples, 5)).astype(np.int32),
        "radar": random.integers(0, 256, (num_samples, 6, 6, 3)).astype(np.uint8),
    }
