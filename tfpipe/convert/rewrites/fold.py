"""What ONNX Runtime's own optimiser does ahead of time, within the ONNX standard.

It is the same code that would do it each time the file is loaded, written into the file once: what quantises or halves
the graph afterwards sees one convolution with its bias rather than three nodes.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from tfpipe.convert.onnx_file import MAX_MESSAGE_BYTES, restore_header, save_model, stored_bytes
from tfpipe.convert.rewrites.dead import remove_dead
from tfpipe.convert.rewrites.difference import contents, num_changes

# One rewrite opens the way for the next; two rounds did for every network seen.
_MOST_ROUNDS = 5
# FuseGelu knows more forms.
_FUSIONS = ("LayerNormFusionL1", "GeluFusionL1")
_CONSTANTS = ("ConstantFolding",)
_INTO_WEIGHTS = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMul_BatchNormalization_Fusion", "Pad_Fusion")


class RuntimeRewrites:
    """Rewrites of ONNX Runtime's basic level, which hold on any machine.

    Args:
        name: Of the pass.
        without: Rewrites that it leaves out, by ONNX Runtime's names.
        max_message_bytes: See `save_model`.
    """

    def __init__(self, name: str, *, without: Sequence[str] = (), max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.name = name
        self._without, self._max_message_bytes = list(without), max_message_bytes

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`.

        Raises:
            OSError: There is no room for temporary files.
        """
        before = contents(model)
        for _ in range(_MOST_ROUNDS):
            model = self._once(model)
            after = contents(model)
            if not num_changes(before, after):
                break
            before = after
        return model

    def _once(self, model: onnx.ModelProto) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory(prefix="tfpipe-rewrites-") as folder:
            source, target = Path(folder) / "given.onnx", Path(folder) / "rewritten.onnx"
            save_model(model, source, max_message_bytes=self._max_message_bytes)
            # ONNX Runtime, which writes it again, does not say that a disk is full.
            shutil.copyfile(source, target)
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(target)
            options.log_severity_level = 3
            if stored_bytes(model) > self._max_message_bytes:
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
                )
            onnxruntime.InferenceSession(
                str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=self._without
            )
            rewritten = onnx.load(target)
        remove_dead(rewritten.graph)
        return restore_header(rewritten, model)


# Dead and repeated nodes, identities, casts and transposes without effect, products with a sum.
SIMPLIFY = RuntimeRewrites("simplify", without=(*_FUSIONS, *_CONSTANTS, *_INTO_WEIGHTS))
FOLD_CONSTANTS = RuntimeRewrites("fold_constants", without=(*_FUSIONS, *_INTO_WEIGHTS))
# Batch normalisation, scales, sums and padding become part of the convolution or product beside them.
FOLD_BATCH_NORM = RuntimeRewrites("fold_batch_norm", without=_FUSIONS)
# (x - mean) / sqrt(variance + epsilon) * scale + shift.
FUSE_LAYER_NORM = RuntimeRewrites("fuse_layer_norm", without=_FUSIONS[1:])
# All of these at once, for a graph that may have come from elsewhere.
FOLD = RuntimeRewrites("fold", without=_FUSIONS[1:])
