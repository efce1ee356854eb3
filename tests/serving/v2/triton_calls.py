"""What NVIDIA's own client makes of the service; run by its environment's Python, as `test_triton_client.py` does.

triton_calls.py messages                  fields of the protocol's messages by name, as JSON
triton_calls.py http|grpc HOST:PORT       every call that asks the service, as JSON; standard input is an image
triton_calls.py http|grpc HOST:PORT KEY   those that load and unload version 2, which has no traffic, by an API key
"""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2


def messages():
    found = {}

    def add(message, name):
        found[name] = {field.name: [field.number, field.type, field.is_repeated] for field in message.fields}
        for nested in message.nested_types:
            add(nested, f"{name}.{nested.name}")

    for module in (service_pb2, model_config_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            add(message, message.name)
    return found


def calls(protocol, address, image):
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    client = module.InferenceServerClient(address)
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 2] = pixels[1, ..., 1] = 250

    def of(name, array, datatype, **binary):
        given = module.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array, **binary)
        return given

    files = np.array([image, image], object)

    def labels(name, array, datatype, *, outputs=("label",), **arguments):
        wanted = [module.InferRequestedOutput(output) for output in outputs]
        answer = client.infer("colours", [of(name, array, datatype)], outputs=wanted, **arguments)
        return [one.decode() for one in answer.as_numpy("label").tolist()]

    whole = client.infer("colours", [of("image", files, "BYTES")], model_version="3", request_id="abc")
    best = client.infer(
        "colours", [of("image", files, "BYTES")], outputs=[module.InferRequestedOutput("probabilities", class_count=2)]
    )
    results = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("colours", "3"),
        "other_ready": _unready(client),
        "server": _plain(client.get_server_metadata()),
        "metadata": _plain(client.get_model_metadata("colours")),
        "config": _plain(client.get_model_config("colours")),
        "statistics": _plain(client.get_inference_statistics("colours")),
        "index": _plain(client.get_model_repository_index()),
        "labels": [one.decode() for one in whole.as_numpy("label").tolist()],
        "probabilities": whole.as_numpy("probabilities").tolist(),
        "id": _plain(whole.get_response())["id"],
        "pixels": labels("pixels", pixels, "UINT8"),
        "rows": labels("input", pixels.astype(np.float32) / 255, "FP32"),
        "best": [one.decode().split(":", 1)[1] for one in best.as_numpy("probabilities").reshape(-1).tolist()],
        "unknown": _refused(lambda: client.infer("other", [of("image", files, "BYTES")])),
        "wrong": _refused(lambda: client.infer("colours", [of("image", np.array([b"?"], object), "BYTES")])),
        "late": _refused(lambda: labels("image", files, "BYTES", timeout=1)),
        "shared_memory": _refused(client.get_system_shared_memory_status),
        "unload": _refused(lambda: client.unload_model("colours")),
    }
    if protocol == "http":
        for name in ("gzip", "deflate"):
            packed = {"request_compression_algorithm": name, "response_compression_algorithm": name}
            results[name] = labels("pixels", pixels, "UINT8", **packed)
        wanted = [module.InferRequestedOutput("label", binary_data=False)]
        answer = client.infer("colours", [of("pixels", pixels, "UINT8", binary_data=False)], outputs=wanted)
        results["json"] = [str(one) for one in answer.as_numpy("label").tolist()]
    else:
        results["gzip"] = labels("pixels", pixels, "UINT8", compression_algorithm="gzip")
    client.close()
    return results


def changes(protocol, address, key):
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    client, version = module.InferenceServerClient(address), "colours/versions/2"
    headers = {"authorization": f"Bearer {key}"}

    def is_ready():
        try:
            return client.is_model_ready("colours", "2", headers=headers)
        except tritonclient.grpc.InferenceServerException:
            return False

    def loaded():
        index = _plain(client.get_model_repository_index(headers=headers))
        return [one["version"] for one in (index["models"] if isinstance(index, dict) else index)]

    results = {"before": [is_ready(), loaded()]}
    client.load_model(version, headers=headers)
    results["loaded"] = [is_ready(), loaded()]
    client.load_model("colours", headers=headers)
    client.unload_model(version, headers=headers)
    results["unloaded"] = [is_ready(), loaded()]
    results["traffic"] = _refused(lambda: client.unload_model("colours/versions/1", headers=headers))
    results["whole"] = _refused(lambda: client.unload_model("colours", headers=headers))
    results["unknown"] = _refused(lambda: client.load_model("colours/versions/9", headers=headers))
    results["config"] = _refused(lambda: client.load_model(version, headers=headers, config="{}"))
    results["no_key"] = _refused(lambda: client.load_model(version))
    client.close()
    return results


def _plain(answer):
    if isinstance(answer, dict | list):
        return answer
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def _unready(client):
    try:
        return client.is_model_ready("other")
    except tritonclient.grpc.InferenceServerException as error:
        return error.status()


def _refused(call):
    try:
        call()
    except (tritonclient.http.InferenceServerException, tritonclient.grpc.InferenceServerException) as error:
        return [error.status(), error.message()]
    return None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["messages"]:
            made = messages()
        case [protocol, address]:
            made = calls(protocol, address, sys.stdin.buffer.read())
        case [protocol, address, key]:
            made = changes(protocol, address, key)
    sys.stdout.write(json.dumps(made))
