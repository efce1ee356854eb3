"""What every pass over a model graph must hold."""

import onnx

from tests.convert.onnx_graphs import answers
from tfpipe.convert.passes import run_passes
from tfpipe.core.parity import BOUNDS, assert_parity


def check_pass(graph_pass, model, inputs):
    """A valid graph with the same inputs, outputs, metadata and answers; a second time there is nothing to do.

    Returns:
        The rewritten graph, and how much was changed.
    """
    before = onnx.ModelProto()
    before.CopyFrom(model)

    once, (first,) = run_passes(model, [graph_pass], inputs=[{"input": inputs}])
    copy = onnx.ModelProto()
    copy.CopyFrom(once)
    twice, (second,) = run_passes(copy, [graph_pass], inputs=[{"input": inputs}])

    onnx.checker.check_model(once, full_check=True)
    assert list(once.graph.input) == list(before.graph.input)
    assert list(once.graph.output) == list(before.graph.output)
    assert list(once.metadata_props) == list(before.metadata_props)
    assert {node.domain for node in once.graph.node} <= {""}
    # As they are served, that is with what ONNX Runtime rewrites in addition.
    assert_parity(answers(once, inputs), answers(before, inputs), BOUNDS["fp32"], where=graph_pass.name)
    assert second.num_changed == 0, f"{graph_pass.name} has not finished"
    assert len(twice.graph.node) == len(once.graph.node)
    return once, first.num_changed
