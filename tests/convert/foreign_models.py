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
    x = layers.Conv2D(16, 3, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(64, activation="relu", name="embedding")(x)
    x = layers.Dropout(0.5)(x)
    answers = layers.Dense(len(CLASSES), activation=None if logits else "softmax", name="answers")(x)
    return keras.Model(image, answers, name="shades")


def fitted(model, *, scale=1.0, logits=False, epochs=15, targets=None, **data):
    """The model, trained on `shades`."""
    keras.utils.set_random_seed(0)
    pixels, labels = shades(**data)
    kind = keras.losses.SparseCategoricalCrossentropy(from_logits=logits) if targets is None else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), kind)
    model.fit(pixels * scale, labels if targets is None else targets(labels), epochs=epochs, batch_size=16, verbose=0)
    return model
