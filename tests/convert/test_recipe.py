import pytest

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.recipe import Recipe, default_recipes, further_recipes, products_saturate

VNNI = {"avx2", "avx512f", "avx512_vnni"}
MINMAX = Recipe("all", "minmax")


def test_convolutional_networks_take_minmax_and_then_percentile_without_depthwise():
    assert default_recipes(ConversionConfig(), "all", VNNI) == (
        MINMAX, Recipe("all", "percentile", keep_depthwise=True),
    )  # fmt: skip


def test_static_recipes_of_texts_come_before_the_dynamic_one():
    recipes = default_recipes(ConversionConfig(), "products", VNNI)

    assert recipes == tuple(Recipe("products", method) for method in ("minmax", "percentile", "dynamic"))
    assert [recipe.is_dynamic for recipe in recipes] == [False, False, True]


def test_what_the_user_says_is_the_only_recipe():
    config = ConversionConfig(calibration_method="entropy", per_channel=False, activations="int8", reduce_range=True)

    for operators in ("all", "products"):
        assert default_recipes(config, operators, VNNI) == (
            Recipe(operators, "entropy", per_channel=False, activations="int8", reduce_range=True),
        )


@pytest.mark.parametrize("operators", ["all", "products"])
def test_dynamic_ranges_are_for_products_alone(operators):
    recipes = default_recipes(ConversionConfig(calibration_method="dynamic"), operators, VNNI)

    assert recipes == (Recipe("products", "dynamic"),)


@pytest.mark.parametrize("operators", ["all", "products"])
def test_a_search_tries_every_kind_of_recipe_and_none_twice(operators):
    defaults = default_recipes(ConversionConfig(), operators, VNNI)
    tried = (*defaults, *further_recipes(ConversionConfig(), operators, VNNI))

    assert len(set(tried)) == len(tried)
    assert {recipe.calibration_method for recipe in tried} == {"minmax", "percentile", "entropy", "dynamic"}
    assert {recipe.activations for recipe in tried} == {"uint8", "int8"}
    assert {recipe.per_channel for recipe in tried} == {True, False}
    assert not any(recipe.reduce_range for recipe in tried)


def test_weights_have_7_bits_where_the_processor_would_overflow_and_a_search_tries_8_too():
    assert default_recipes(ConversionConfig(), "all", {"avx2"})[0] == Recipe("all", "minmax", reduce_range=True)
    assert MINMAX in further_recipes(ConversionConfig(), "all", {"avx2"})
    assert default_recipes(ConversionConfig(reduce_range=False), "all", {"avx2"})[0] == MINMAX


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2"}, True), ({"avx2", "avx512f"}, True), (VNNI, False), ({"avx2", "avx_vnni"}, False),
        ({"avx2", "amx_int8"}, False), ({"asimd", "asimddp"}, False), (set(), False),
    ],
)  # fmt: skip
def test_products_overflow_on_x86_without_vnni_alone(features, expected):
    assert products_saturate(features) is expected


def test_a_recipe_describes_itself_for_the_manifest():
    described = Recipe("products", "dynamic").describe()

    assert (described["format"], described["calibration_method"]) == ("MatMulInteger", "dynamic")
    assert described["disabled_optimizers"] == ["SkipLayerNormFusion"]
    assert described["computed_in_int8"] == "products with stored weights"
    static = Recipe("products", "minmax", keep=("a", "b")).describe()
    assert static["computed_in_int8"] == "products with stored weights, convolutions"
    assert (static["format"], static["kept_in_float32"], static["disabled_optimizers"]) == ("QDQ", ["a", "b"], [])


def test_recipes_that_differ_have_titles_that_differ():
    tried = (
        *default_recipes(ConversionConfig(), "all", {"avx2"}), *further_recipes(ConversionConfig(), "all", {"avx2"})
    )  # fmt: skip

    assert len({recipe.title for recipe in tried}) == len(tried)
    assert MINMAX.title == "minmax"
    assert Recipe("all", "percentile", keep_depthwise=True).title == (
        "percentile, depthwise convolutions kept in float32"
    )
