"""What nothing in a graph uses."""

import onnx

from tfpipe.convert.onnx_file import all_nodes, keep_tensors


def remove_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes and stored tensors that no output depends on; in place."""
    wanted = {value.name for value in graph.output}
    kept = []
    # Nodes stand in the order in which they run.
    for node in reversed(list(graph.node)):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    wanted.update(name for one in all_nodes(inner) for name in one.input)
                    wanted.update(value.name for value in inner.output)
    if len(kept) < len(graph.node):
        nodes = kept[::-1]
        del graph.node[:]
        graph.node.extend(nodes)
    keep_tensors(graph, wanted)
