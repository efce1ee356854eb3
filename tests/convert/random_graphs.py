"""Random small model graphs, with what converters leave in them: for properties of passes and of quantisation."""

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.convert.onnx_graphs import graph_of

SIDE = 8
BLOCKS = ("conv", "depthwise", "pointwise", "residual")
ACTIVATIONS = ("none", "relu", "gelu_scaled_half_first", "gelu_divided", "gelu_half_last", "hard_swish", "swish")
CLUTTER = ("none", "identity", "cast", "transposes", "computed_reshape", "layer_norm", "unused", "constant")


class GraphBuilder:
    """Adds nodes to a graph `input` float32 (batch, 8, 8, 3) -> `probabilities` float32 (batch, 3)."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self._count = [], {}, 0

    def add(self, op_type, *inputs, **attributes):
        self._count += 1
        name = f"{op_type.lower()}{self._count}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, values):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(values)
        return name

    def number(self, value):
        return self.weight(np.float32(value))

    def normal(self, *shape, fan_in):
        return self.weight(self.random.normal(0, fan_in**-0.5, shape).astype(np.float32))

    def conv(self, x, channels, into, *, kernel=3, group=1):
        fan_in = channels // group * kernel * kernel
        weights = self.normal(into, channels // group, kernel, kernel, fan_in=fan_in)
        return self.add("Conv", x, weights, pads=[kernel // 2] * 4, group=group)

    def batch_norm(self, x, channels):
        draw = lambda low, high: self.weight(self.random.uniform(low, high, channels).astype(np.float32))  # noqa: E731
        return self.add("BatchNormalization", x, draw(0.5, 2), draw(-1, 1), draw(-1, 1), draw(0.5, 2), epsilon=1e-3)

    def activation(self, x, kind):
        if kind == "relu":
            return self.add("Relu", x)
        if kind == "swish":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if kind == "hard_swish":
            clipped = self.add("Clip", self.add("Add", x, self.number(3)), self.number(0), self.number(6))
            return self.add("Mul", self.add("Mul", x, clipped), self.number(1 / 6))
        return self._gelu(x, kind) if kind.startswith("gelu") else x

    def _gelu(self, x, kind):
        half, one = self.number(0.5), self.number(1)
        if kind == "gelu_divided":
            total = self.add("Add", self.add("Erf", self.add("Div", x, self.number(2**0.5))), one)
            return self.add("Mul", self.add("Mul", x, total), half)
        total = self.add("Add", one, self.add("Erf", self.add("Mul", x, self.number(0.5**0.5))))
        if kind == "gelu_half_last":
            return self.add("Mul", half, self.add("Mul", total, x))
        return self.add("Mul", self.add("Mul", half, x), total)

    def clutter(self, x, kind, channels):
        """What has no effect, and what is worked out with each run."""
        if kind == "identity":
            return self.add("Identity", x)
        if kind == "cast":
            return self.add("Cast", x, to=TensorProto.FLOAT)
        if kind == "transposes":
            return self.add("Transpose", self.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
        if kind == "computed_reshape":
            batch = self.add("Gather", self.add("Shape", x), self.weight(np.array([0])))
            shape = self.add("Concat", batch, self.weight(np.array([channels, SIDE, SIDE])), axis=0)
            return self.add("Reshape", self.add("Flatten", x), shape)
        if kind == "layer_norm":
            return self.layer_norm(x, SIDE)
        if kind == "unused":
            self.add("Exp", x)
        if kind == "constant":
            total = self.add("Add", self.number(0.25), self.number(0.5))
            return self.add("Add", x, self.add("Neg", total))
        return x

    def layer_norm(self, x, width):
        axes = self.weight(np.array([-1]))
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes))
        variance = self.add("ReduceMean", self.add("Pow", centred, self.number(2)), axes)
        deviation = self.add("Sqrt", self.add("Add", variance, self.number(1e-3)))
        scaled = self.add("Mul", self.add("Div", centred, deviation), self.normal(width, fan_in=1))
        return self.add("Add", scaled, self.normal(width, fan_in=1))

    def block(self, x, kind, channels, into):
        if kind == "residual" and channels == into:
            return self.add("Add", x, self.conv(x, channels, into))
        if kind == "depthwise" and channels % 2 == 0 and into == channels:
            return self.conv(x, channels, channels, group=channels)
        return self.conv(x, channels, into, kernel=1 if kind == "pointwise" else 3)

    def head(self, x, channels, hidden):
        pooled = self.add("ReduceMean", x, self.weight(np.array([2, 3])), keepdims=0)
        for width in hidden:
            product = self.add("MatMul", pooled, self.normal(channels, width, fan_in=channels))
            pooled, channels = self.add("Relu", self.add("Add", product, self.normal(width, fan_in=9))), width
        product = self.add("MatMul", pooled, self.normal(channels, 3, fan_in=channels / 4))
        logits = self.add("Add", product, self.normal(3, fan_in=9))
        self.nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], axis=-1))

    def build(self):
        return graph_of(self.nodes, self.weights)


@st.composite
def graphs(draw, *, widths=(4, 6, 16), hidden=((), (16,)), clutter=CLUTTER, max_blocks=3):
    """A convolutional network of random layers with random weights, as a converter might write it."""
    builder = GraphBuilder(draw(st.integers(0, 2**32 - 1)))
    x, channels = builder.add("Transpose", "input", perm=[0, 3, 1, 2]), 3
    for _ in range(draw(st.integers(1, max_blocks))):
        kind, into = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from(widths))
        x = builder.block(x, kind, channels, channels if kind in ("residual", "depthwise") else into)
        channels = channels if kind in ("residual", "depthwise") else into
        if draw(st.booleans()):
            x = builder.batch_norm(x, channels)
        x = builder.activation(x, draw(st.sampled_from(ACTIVATIONS)))
        x = builder.clutter(x, draw(st.sampled_from(clutter)), channels)
    builder.head(x, channels, draw(st.sampled_from(hidden)))
    return builder.build()
