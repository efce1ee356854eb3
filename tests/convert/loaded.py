"""What ONNX Runtime makes of a graph as it loads it."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime


def types_as_loaded(model):
    """Types of operators after all rewrites that do not depend on the processor's layout of memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loaded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return {node.op_type for node in onnx.load(path).graph.node}
