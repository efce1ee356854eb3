import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import SessionOptions

from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.ort import open_session
from tfpipe.ort_providers import PROVIDERS, Way, check, configure, installed_providers, left_to_cpu, ways

HAS_OPENVINO = "openvino" in installed_providers()
on_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO's plugin takes no processor of this machine")
EVERY = tuple(PROVIDERS)
ROWS = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)


def graph_of(nodes: list, constants: dict, batch: int | str = "batch") -> bytes:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 64])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def product() -> bytes:
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    return graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights})


def test_the_plain_way_comes_first_and_is_always_there():
    assert ways("fp32")[0] == Way("cpu", "float32")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((), ["cpu", "openvino"]),
        (("avx512_vnni",), ["cpu", "openvino"]),
        (("amx_bf16",), ["cpu", "openvino", "openvino (bfloat16)"]),
        (("avx512_bf16",), ["cpu", "openvino", "openvino (bfloat16)"]),
    ],
)
def test_bfloat16_is_a_way_only_where_the_processor_computes_in_it(features, expected):
    found = ways("int8", features=features, installed=("cpu", "openvino"))

    assert [way.title for way in found] == expected


def test_half_a_variant_is_not_halved_again():
    assert Way("openvino", "bfloat16") not in ways("fp16", features=("amx_bf16",), installed=EVERY)


def test_a_gpu_adds_its_providers():
    found = ways("fp32", features=(), installed=EVERY)

    assert [way.title for way in found] == ["cpu", "openvino", "cuda", "tensorrt", "tensorrt (float16)"]


def test_tensorrt_computes_half_a_variant_in_float16_alone():
    found = ways("fp16", features=(), installed=("tensorrt",))

    assert found == (Way("tensorrt", "float16"),)


@pytest.mark.parametrize("is_quantised", [False, True])
@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
def test_tensorrt_is_told_its_arithmetic_and_where_engines_are_kept(tmp_path, arithmetic, is_quantised):
    engines = tmp_path / "engines"

    first, *behind = configure(
        SessionOptions(),
        Way("tensorrt", arithmetic),
        threads=None,
        engines_dir=engines,
        is_quantised=is_quantised,
    )

    assert first[0] == "TensorrtExecutionProvider"
    assert first[1]["trt_fp16_enable"] == ("1" if arithmetic == "float16" else "0")
    assert first[1]["trt_int8_enable"] == ("1" if is_quantised else "0")
    assert (first[1]["trt_engine_cache_enable"], first[1]["trt_engine_cache_path"]) == ("1", str(engines))
    assert engines.is_dir()
    assert [name for name, _ in behind] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_float32_on_a_gpu_is_no_tensorfloat32():
    (first, options), _ = configure(SessionOptions(), Way("cuda"), threads=None, engines_dir=None)

    assert (first, options["use_tf32"]) == ("CUDAExecutionProvider", "0")


def test_every_way_that_is_offered_passes_the_check():
    offered = ways("fp32")

    assert offered[0] == Way()
    for way in offered:
        check(way)


def test_an_arithmetic_that_a_provider_lacks_is_refused(product):
    with pytest.raises(ConfigError, match="expected float32 of provider 'cpu', received 'bfloat16'"):
        open_session(product, provider="cpu", arithmetic="bfloat16")


@pytest.mark.skipif(HAS_OPENVINO, reason="OpenVINO runs here")
def test_openvino_where_it_does_not_run_says_what_to_do(product):
    with pytest.raises(ConfigError, match=r"received 'openvino', which is not installed here\. (Its plugin|Install)"):
        open_session(product, provider="openvino")


def test_openvino_without_its_plugin_says_how_to_install_it():
    script = """
import sys
sys.modules["onnxruntime_ep_openvino"] = None
from tfpipe.ort import open_session
open_session(b"", provider="openvino")
"""
    failed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert "received 'openvino', which is not installed here. Install it: pip install 'tfpipe[openvino]'" in (
        failed.stderr
    )


class Session:
    """A session of ONNX Runtime that gave operators to providers."""

    def __init__(self, providers: list[str], **operators: list[str]) -> None:
        self._providers, self._operators = providers, operators

    def get_providers(self):
        return [PROVIDERS[name] for name in self._providers]

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(
                ep_name=PROVIDERS[name], get_nodes=lambda ops=ops: [SimpleNamespace(op_type=o) for o in ops]
            )
            for name, ops in self._operators.items()
        ]


def test_what_a_provider_leaves_to_the_cpu_is_named_once_and_in_order():
    session = Session(["tensorrt", "cuda", "cpu"], tensorrt=["Conv"], cuda=["Resize"], cpu=["Shape", "Det", "Shape"])

    assert left_to_cpu(session, Way("tensorrt")) == ("Det", "Shape")


def test_a_provider_that_was_left_out_silently_is_an_error():
    with pytest.raises(ConfigError, match=r"expected 'cuda' to run, but ONNX Runtime fell back to \['CPUEx"):
        left_to_cpu(Session(["cpu"], cpu=["Conv"]), Way("cuda"))


def test_a_provider_that_takes_no_operator_is_an_error():
    with pytest.raises(ConfigError, match=r"it takes none of its operators \(Conv, Relu\)\. Choose cpu"):
        left_to_cpu(Session(["openvino", "cpu"], cpu=["Conv", "Relu"]), Way("openvino"))


@on_openvino
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_openvino_answers_as_the_cpu_does(product, threads):
    model = open_session(product, provider="openvino", threads=threads)

    received = model.run({"x": ROWS})["y"]

    assert (model.provider, model.arithmetic, model.on_cpu) == ("openvino", "float32", ())
    np.testing.assert_allclose(received, open_session(product, provider="cpu").run({"x": ROWS})["y"], atol=1e-4)


@on_openvino
@pytest.mark.skipif(Way("openvino", "bfloat16") not in ways("fp32"), reason="no bfloat16 in this processor")
def test_the_arithmetic_that_is_asked_for_is_what_runs(product):
    exact = open_session(product, provider="cpu").run({"x": ROWS})["y"]

    apart = {
        arithmetic: np.abs(
            open_session(product, provider="openvino", arithmetic=arithmetic).run({"x": ROWS})["y"] - exact
        ).max()
        for arithmetic in ("float32", "bfloat16")
    }

    # 8 bits, of sums of 64 products of about 1.
    assert apart["float32"] < 1e-4 < 1e-3 < apart["bfloat16"] < 0.5


@on_openvino
def test_operators_that_openvino_lacks_are_named():
    nodes = [helper.make_node("MatMul", ["x", "x"], ["p"]), helper.make_node("Det", ["p"], ["y"])]

    assert open_session(graph_of(nodes, {}, batch=64), provider="openvino").on_cpu == ("Det",)


@on_openvino
def test_a_model_of_which_openvino_takes_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"it takes none of its operators \(Det\)\. Choose cpu"):
        open_session(graph_of([helper.make_node("Det", ["x"], ["y"])], {}, batch=64), provider="openvino")


@on_openvino
def test_a_damaged_file_is_told_on_openvino_too(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")

    with pytest.raises(
        BundleError, match=r"model\.onnx: expected an ONNX model that ONNX Runtime can load on openvino"
    ):
        open_session(tmp_path / "model.onnx", provider="openvino")
