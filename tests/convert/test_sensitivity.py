import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.convert.onnx_graphs import answers, convolutional, graph_of, rows
from tfpipe.convert.quantize import Quantizer, quantized_nodes
from tfpipe.convert.recipe import Recipe, products_saturate
from tfpipe.convert.sensitivity import Block, find_blocks, worst_blocks
from tfpipe.provenance import cpu_features

ALL, PRODUCTS = Recipe("all", "minmax"), Recipe("products", "minmax")


def batches():
    return [{"input": rows()[start : start + 4]} for start in range(0, 16, 4)]


def one_bad_channel():
    """Two products in a row; what goes into the second has one value that is 3,000 times all others."""
    random = np.random.default_rng(4)
    first = random.normal(0, 1, (3, 16)).astype(np.float32)
    first[:, 5] *= 3000
    second = random.normal(0, 1, (16, 3)).astype(np.float32)
    # The large one says nothing.
    second[5] = 0
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("MatMul", ["m", "first"], ["h"], name="harmless"),
        helper.make_node("MatMul", ["h", "second"], ["logits"], name="harmed"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
    ]
    return graph_of(nodes, {"axes": np.array([1, 2]), "first": first, "second": second})


@pytest.mark.parametrize("recipe", [ALL, PRODUCTS], ids=lambda recipe: recipe.operators)
def test_the_operator_whose_input_int8_cannot_hold_comes_first(recipe):
    with Quantizer(one_bad_channel(), batches()) as quantizer:
        blocks = worst_blocks(quantizer, recipe)

    assert [block.nodes[0] for block in blocks] == ["harmed", "harmless"]
    assert blocks[0].damage > 10 * blocks[1].damage


def test_what_is_kept_by_the_measured_order_brings_the_answers_back():
    model = one_bad_channel()
    reference = answers(model, rows())
    with Quantizer(model, batches()) as quantizer:
        worst = worst_blocks(quantizer, PRODUCTS)[0]
        apart = {
            kept: np.abs(answers(quantizer.quantize(Recipe("products", "minmax", keep=kept)), rows()) - reference).max()
            for kept in ((), worst.nodes)
        }

    assert apart[()] > 0.05
    assert apart[worst.nodes] < 0.1 * apart[()]


@pytest.mark.skipif(products_saturate(cpu_features()), reason="products of 8 bits saturate here, and answer otherwise")
def test_the_damage_of_all_blocks_is_that_of_the_graph_in_which_each_alone_is_in_int8():
    with Quantizer(convolutional(), batches()) as quantizer:
        blocks = {block.nodes[0]: block.damage for block in worst_blocks(quantizer, PRODUCTS)}
        names = set(blocks)
        alone = {}
        for name in names:
            keep = tuple(sorted(names - {name}))
            model = quantizer.quantize(Recipe("products", "minmax", keep=keep))
            difference = answers(model, rows()[:8]) - answers(convolutional(), rows()[:8])
            alone[name] = float(np.sqrt(np.mean(np.square(difference))))

    assert names == {"conv", "depthwise", "dense"}
    assert blocks == pytest.approx(alone, rel=0.05, abs=1e-5)


def test_a_block_begins_with_each_product_and_takes_what_follows():
    with Quantizer(convolutional(), batches()) as quantizer:
        model = quantizer.prepared()
        blocks = find_blocks(model, quantized_nodes(model, ALL))

    names = [name for block in blocks for name in block.nodes]
    assert sorted(names) == sorted(quantized_nodes(model, ALL))
    assert [block.nodes[0] for block in blocks] == ["conv", "depthwise", "dense"]
    # Sigmoid stays in float32 anyway; what stands before the first belongs to it.
    assert blocks[0] == Block(("conv", "planes", "relu"))


def test_where_time_is_up_blocks_are_left_out():
    asked = iter([False, True])

    with Quantizer(convolutional(), batches()) as quantizer:
        blocks = worst_blocks(quantizer, ALL, is_over=lambda: next(asked))

    assert len(blocks) == 1


def test_two_products_may_share_a_weight():
    model = one_bad_channel()
    model.graph.node[1].input[1] = "square"
    model.graph.node.insert(2, helper.make_node("MatMul", ["h", "square"], ["i"], name="again"))
    model.graph.node[3].input[0] = "i"
    model.graph.node[3].input[1] = "square"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32) * 0.7, "square"))

    with Quantizer(model, batches()) as quantizer:
        blocks = worst_blocks(quantizer, PRODUCTS)

    assert sorted(block.nodes[0] for block in blocks) == ["again", "harmed", "harmless"]
    assert all(np.isfinite(block.damage) for block in blocks)
