"""The layers that ship inside the model, on pictures whose change is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.image_files import picture
from tests.models.assembled import assembled, config_of
from tfpipe.preprocessing.layers import DRAWS, Augmentation, Probabilities, Resize

pytestmark = pytest.mark.tensorflow

KINDS = {
    "horizontal_flip": True,
    "vertical_flip": True,
    "quarter_turns": True,
    "rotation": 40.0,
    "zoom": 0.3,
    "translation": 0.2,
    "contrast": 0.4,
    "brightness": 0.2,
}
# A draw in the middle changes nothing, for everything that has a middle.
NEUTRAL = {"horizontal_flip": 0.9, "vertical_flip": 0.9, "quarter_turns": 0.0}


def draws(**values):
    """(1, K) draws that change nothing, but for those given."""
    return np.array([[values.get(name, NEUTRAL.get(name, 0.5)) for name in DRAWS]], np.float32)


def changed(layer, image, **values):
    """One (H, W, C) picture after the augmentation."""
    return np.asarray(layer(image[None].astype(np.float32), draws(**values), training=True))[0]


def disc(height=33, width=33, centre=(8.0, 16.0), radius=4.0):
    """A white disc on black, (height, width, 3) float32; centre is (y, x)."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - centre[0], x - centre[1]) <= radius
    return np.repeat(255.0 * inside[..., None], 3, axis=2).astype(np.float32)


def centre_of(image):
    """(y, x) of the centre of what is white."""
    weight = image[..., 0] / image[..., 0].sum()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return float((weight * y).sum()), float((weight * x).sum())


@pytest.fixture
def image():
    return picture(16, 16, seed=3).astype(np.float32)


def test_augmentation_runs_in_training_only(image):
    layer = Augmentation(**KINDS)
    everything = draws(horizontal_flip=0.1, rotation=0.9, contrast=0.9, brightness=0.9)

    for options in ({}, {"training": False}):
        np.testing.assert_array_equal(layer(image[None], everything, **options), image[None])
    assert np.abs(np.asarray(layer(image[None], everything, training=True)) - image).max() > 10


def test_the_whole_model_answers_without_augmentation(image):
    plain = assembled(config_of(preprocessing={"augmentation": {}}))
    augmented = assembled(config_of(preprocessing={"augmentation": KINDS}))
    for source, target in zip(plain.network.weights, augmented.network.weights, strict=True):
        target.assign(source)

    np.testing.assert_array_equal(
        augmented.model(image[None], training=False), plain.model(image[None], training=False)
    )


def test_a_picture_is_a_function_of_its_own_draws_alone():
    layer = Augmentation(**KINDS)
    rng = np.random.default_rng(0)
    images = np.stack([picture(16, 16, seed) for seed in range(5)]).astype(np.float32)
    values = rng.random((5, len(DRAWS)), dtype=np.float32)

    together = np.asarray(layer(images, values, training=True))
    again = np.asarray(layer(images, values, training=True))
    alone = np.concatenate([layer(images[i : i + 1], values[i : i + 1], training=True) for i in range(5)])

    np.testing.assert_array_equal(together, again)
    np.testing.assert_allclose(together, alone, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_reads_its_own_draws_only(image, kind):
    layer = Augmentation(**{kind: KINDS[kind]})
    own = [name for name in DRAWS if name.startswith(kind)]
    others = {name: 0.03 for name in DRAWS if name not in own}

    assert own
    np.testing.assert_array_equal(changed(layer, image, **others), changed(layer, image))
    assert np.abs(changed(layer, image, **dict.fromkeys(own, 0.3)) - changed(layer, image)).max() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_draws_in_the_middle_change_nothing(image, kind):
    np.testing.assert_allclose(changed(Augmentation(**{kind: KINDS[kind]}), image), image, atol=1e-3)


def test_flips_mirror(image):
    layer = Augmentation(horizontal_flip=True, vertical_flip=True)

    np.testing.assert_allclose(changed(layer, image, horizontal_flip=0.4), image[:, ::-1], atol=1e-3)
    np.testing.assert_allclose(changed(layer, image, vertical_flip=0.4), image[::-1], atol=1e-3)
    both = changed(layer, image, horizontal_flip=0.4, vertical_flip=0.4)
    np.testing.assert_allclose(both, image[::-1, ::-1], atol=1e-3)


def test_a_flip_mirrors_pictures_that_are_not_square():
    image = picture(10, 17, seed=1).astype(np.float32)

    result = changed(Augmentation(horizontal_flip=True), image, horizontal_flip=0.0)

    np.testing.assert_allclose(result, image[:, ::-1], atol=1e-3)


def test_quarter_turns_turn_by_each_multiple_of_90_degrees(image):
    layer = Augmentation(quarter_turns=True)

    results = [changed(layer, image, quarter_turns=draw) for draw in (0.1, 0.3, 0.6, 0.99)]

    turned = [np.rot90(image, quarters) for quarters in range(4)]
    matches = [
        [quarters for quarters in range(4) if np.allclose(result, turned[quarters], atol=0.05)] for result in results
    ]
    assert sorted(matches) == [[0], [1], [2], [3]]
    assert matches[0] == [0]
    assert matches[2] == [2]


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.75])
def test_rotation_moves_a_disc_round_the_centre_by_its_angle(draw):
    before = disc(centre=(8.0, 16.0))

    y, x = centre_of(changed(Augmentation(rotation=60.0), before, rotation=draw))

    # The disc stands 8 pixels above the centre of 33 x 33.
    angle = np.radians(60.0 * (2 * draw - 1))
    assert np.hypot(y - 16, x - 16) == pytest.approx(8.0, abs=0.2)
    assert abs(np.arctan2(x - 16, 16 - y)) == pytest.approx(abs(angle), abs=0.03)


def test_rotation_to_either_side_is_equally_far():
    left, right = (
        centre_of(changed(Augmentation(rotation=60.0), disc(centre=(8.0, 16.0)), rotation=draw)) for draw in (0.2, 0.8)
    )

    assert left == pytest.approx((right[0], 32 - right[1]), abs=0.05)
    assert abs(left[1] - 16) > 3


@pytest.mark.parametrize(("draw", "scale"), [(0.0, 0.5), (0.75, 1.25), (0.25, 0.75)])
def test_zoom_scales_about_the_centre(draw, scale):
    result = changed(Augmentation(zoom=0.5), disc(centre=(16.0, 16.0), radius=8.0), zoom=draw)

    assert centre_of(result) == pytest.approx((16.0, 16.0), abs=0.05)
    radius = np.sqrt(result[..., 0].sum() / 255.0 / np.pi)
    assert radius == pytest.approx(8.0 * scale, abs=0.4)


def test_translation_shifts_by_a_share_of_height_and_width():
    before = disc(20, 40, centre=(10.0, 20.0))

    down = centre_of(changed(Augmentation(translation=0.2), before, translation_y=1.0))
    left = centre_of(changed(Augmentation(translation=0.2), before, translation_x=0.25))

    assert down == pytest.approx((10.0 + 0.2 * 20, 20.0), abs=0.05)
    assert left == pytest.approx((10.0, 20.0 - 0.1 * 40), abs=0.05)


def test_beyond_the_edge_stands_the_nearest_pixel():
    image = np.full((12, 12, 3), 200.0, np.float32)

    for values in ({"rotation": 0.99}, {"zoom": 0.0}, {"translation_y": 0.0, "translation_x": 0.9}):
        result = changed(Augmentation(rotation=180.0, zoom=0.5, translation=0.5), image, **values)
        np.testing.assert_allclose(result, image, atol=1e-3)


@pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.6), (0.75, 1.2), (1.0, 1.4)])
def test_contrast_stretches_about_the_mean_of_the_picture(draw, factor):
    image = np.random.default_rng(0).uniform(100, 150, (8, 8, 3)).astype(np.float32)

    result = changed(Augmentation(contrast=0.4), image, contrast=draw)

    np.testing.assert_allclose(result, (image - image.mean()) * factor + image.mean(), rtol=1e-4)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -51.0), (0.75, 25.5)])
def test_brightness_adds_a_share_of_the_full_scale(draw, shift):
    image = np.random.default_rng(0).uniform(100, 150, (8, 8, 3)).astype(np.float32)

    result = changed(Augmentation(brightness=0.2), image, brightness=draw)

    np.testing.assert_allclose(result, image + shift, rtol=1e-5)


def test_values_stay_on_the_scale_of_a_picture(image):
    for draw in (0.0, 1.0):
        result = changed(Augmentation(contrast=0.9, brightness=0.9), image, contrast=draw, brightness=draw)
        assert result.min() >= 0.0
        assert result.max() <= 255.0


def test_augmentation_is_the_same_in_a_graph(image):
    layer = Augmentation(**KINDS)
    values = draws(horizontal_flip=0.1, rotation=0.8, zoom=0.2, translation_x=0.7, contrast=0.9, brightness=0.4)
    graph = tf.function(lambda images, given: layer(images, given, training=True))

    np.testing.assert_allclose(graph(image[None], values), layer(image[None], values, training=True), atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        Resize(5, 7, mode="pad", interpolation="bicubic", antialias=True, name="resize"),
        Augmentation(**KINDS, name="augmentation"),
        Probabilities(["cat", "dog"], name="probabilities"),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_is_made_again_from_its_configuration(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))

    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_a_saved_model_keeps_its_preprocessing_and_labels(tmp_path):
    preprocessing = {"resize": "crop", "interpolation": "bicubic", "antialias": True, "augmentation": KINDS}
    parts = assembled(config_of(image_size=(9, 9), preprocessing=preprocessing), labels=("left", "right/up", "été"))
    images = np.stack([picture(20, 30, seed) for seed in range(3)])

    parts.model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")

    for layer in ("resize", "augmentation", "rescale", "probabilities"):
        assert again.get_layer(layer).get_config() == parts.model.get_layer(layer).get_config()
    assert again.get_layer("probabilities").labels == ("left", "right/up", "été")
    np.testing.assert_array_equal(again(images, training=False), parts.model(images, training=False))


# On a size that is a multiple of the target, pixels are picked or averaged in a way that can be written down.
def test_nearest_and_bilinear_halving_are_what_numpy_gives():
    image = picture(12, 20, seed=5).astype(np.float32)

    nearest = np.asarray(Resize(6, 10, interpolation="nearest")(image[None]))[0]
    bilinear = np.asarray(Resize(6, 10)(image[None]))[0]

    np.testing.assert_array_equal(nearest, image[1::2, 1::2])
    np.testing.assert_allclose(bilinear, image.reshape(6, 2, 10, 2, 3).mean(axis=(1, 3)), atol=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(31, 47), (9, 90), (8, 8)])
def test_antialiased_resizing_agrees_with_pillow(interpolation, size):
    image = picture(*size, seed=2)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    planes = [Image.fromarray(image[..., c].astype(np.float32), "F").resize((13, 11), method) for c in range(3)]

    result = np.asarray(Resize(11, 13, interpolation=interpolation, antialias=True)(image[None]))[0]

    # Pillow's bicubic has a = -0.5 as Keras's has; both clamp at the edge by renormalising the weights.
    np.testing.assert_allclose(result, np.stack(planes, axis=-1), atol=0.05)


def test_crop_takes_the_largest_centred_part():
    image = picture(10, 30, seed=4).astype(np.float32)

    result = np.asarray(Resize(5, 5, mode="crop")(image[None]))[0]

    np.testing.assert_allclose(result, np.asarray(Resize(5, 5)(image[None, :, 10:20]))[0], atol=1e-3)


def test_pad_keeps_the_whole_picture_between_black_borders():
    image = picture(10, 20, seed=4).astype(np.float32)

    result = np.asarray(Resize(10, 10, mode="pad")(image[None]))[0]

    square = np.pad(image, ((5, 5), (0, 0), (0, 0)))
    np.testing.assert_allclose(result, square.reshape(10, 2, 10, 2, 3).mean(axis=(1, 3)), atol=1e-3)


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(("interpolation", "antialias"), [("nearest", False), ("bilinear", False), ("bicubic", True)])
def test_uint8_and_float_pictures_give_the_same_rows_eager_and_in_a_graph(mode, interpolation, antialias):
    layer = Resize(8, 9, mode=mode, interpolation=interpolation, antialias=antialias)
    image = picture(21, 37, seed=6)[None]
    graph = tf.function(lambda images: layer(images), input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])

    from_bytes, from_floats = np.asarray(layer(image)), np.asarray(layer(image.astype(np.float32)))

    assert from_bytes.dtype == np.float32
    assert from_bytes.shape == (1, 8, 9, 3)
    np.testing.assert_array_equal(from_bytes, from_floats)
    # Resized bytes are no whole numbers: trap of Keras's Resizing, which rounds them when eager.
    assert interpolation == "nearest" or np.any(from_bytes != np.round(from_bytes))
    np.testing.assert_allclose(graph(image), from_bytes, atol=0.02)


def test_a_model_called_without_training_is_in_inference_mode():
    """Keras's own Resizing would leave the later BatchNormalization and Dropout in training mode."""
    parts = assembled(config_of("small_cnn", model={"dropout": 0.5}))
    images = np.stack([picture(20, 30, seed) for seed in range(4)])
    before = [weight.numpy() for weight in parts.model.weights]

    plain = np.asarray(parts.model(images))

    np.testing.assert_array_equal(plain, parts.model(images, training=False))
    np.testing.assert_allclose(plain, parts.model.predict(images, verbose=0), atol=1e-6)
    for weight, value in zip(parts.model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    # The same model in training mode answers otherwise: the comparison above could have failed.
    assert np.abs(np.asarray(parts.model(images, training=True)) - plain).max() > 1e-3


def test_probabilities_are_a_softmax_in_float32():
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(2.0), np.log(5.0)]], np.float16)

    result = np.asarray(Probabilities(["a", "b", "c"], dtype="mixed_float16")(logits))

    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0.5, 0.5, 0.0], [0.125, 0.25, 0.625]], atol=1e-3)


def test_declared_shapes_are_true_ones():
    image = keras.Input((None, None, 3))
    small = Resize(6, 4)(image)

    assert small.shape == (None, 6, 4, 3)
    assert Augmentation(rotation=5.0)(small).shape == (None, 6, 4, 3)
    assert Probabilities(["a", "b"])(keras.Input((2,))).shape == (None, 2)
