"""What only Triton's own environment can do, by its own libraries; run by its Python, as `tests.targets.triton` does.

triton_client.py config FILE        config.pbtxt as JSON, read by Triton's own message
triton_client.py infer HOST:PORT    a request as JSON on standard input, by tritonclient; its answer or error as JSON
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

_CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


def _config(path):
    message = text_format.Parse(Path(path).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _infer(address):
    request = json.load(sys.stdin)
    module = _CLIENTS[request["protocol"]]
    inputs = [_input(module, one) for one in request["inputs"]]
    try:
        answer = module.InferenceServerClient(address).infer(request["model"], inputs)
    except module.InferenceServerException as error:
        return {"error": error.message(), "status": error.status()}
    return {name: _plain(answer.as_numpy(name)) for name in request["outputs"]}


def _input(module, one):
    content = base64.b64decode(one["content"])
    if one["datatype"] == "BYTES":
        array = np.array([base64.b64decode(row) for row in json.loads(content)], object)
    else:
        array = np.frombuffer(content, one["dtype"]).reshape(one["shape"])
    given = module.InferInput(one["name"], list(array.shape), one["datatype"])
    given.set_data_from_numpy(array)
    return given


def _plain(array):
    return [one.decode() for one in array.tolist()] if array.dtype == object else array.tolist()


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"config": _config, "infer": _infer}[sys.argv[1]](sys.argv[2])))
