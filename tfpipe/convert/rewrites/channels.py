"""Constants of a few channels, as those of a normalisation."""

import numpy as np
import onnx
from onnx import numpy_helper

from tfpipe.convert.rewrites.dead import remove_dead
from tfpipe.convert.rewrites.index import GraphIndex
from tfpipe.convert.rewrites.shapes import known_shapes
from tfpipe.core.signature import Array

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
# With more a constant is wide enough as it is.
_MOST_CHANNELS = 16


class WidenChannels:
    """Stores a constant of a few channels once for each pixel of a row, where it meets images.

    ONNX Runtime goes through images in runs as long as what the two have in common: three numbers at a time take much
    longer than a row.
    """

    name = "widen_channels"

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`; in place."""
        index, shapes = GraphIndex(model), known_shapes(model)
        for node in model.graph.node:
            if node.op_type not in _ARITHMETIC or node.domain:
                continue
            for position, other in ((0, 1), (1, 0)):
                constant = index.constant(node.input[position])
                width = _width(shapes.get(node.input[other]), constant)
                if constant is not None and width is not None:
                    # One each, since the same constant may meet images of another width.
                    name = f"{node.output[0]}/wide"
                    wide = np.ascontiguousarray(np.broadcast_to(constant.reshape(1, -1), (width, constant.size)))
                    model.graph.initializer.append(numpy_helper.from_array(wide, name))
                    node.input[position] = name
        remove_dead(model.graph)
        return model


def _width(images: onnx.TensorShapeProto | None, constant: Array | None) -> int | None:
    """Pixels of a row, where these are images of as many channels as the constant has; None where they are not."""
    if images is None or constant is None or len(images.dim) < max(constant.ndim, 3):
        return None
    width, channels = images.dim[-2].dim_value, images.dim[-1].dim_value
    fits = 1 < constant.size == channels <= _MOST_CHANNELS and constant.shape[-1] == channels
    return width if fits and width > 1 else None
