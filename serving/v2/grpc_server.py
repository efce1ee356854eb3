"""The protocol's gRPC service, on the event loop of the HTTP server and with the same functions below it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from serving.admission import Admission
from serving.errors import InvalidRequestError, NotReadyError
from serving.json_values import shown
from serving.keys import Scope
from serving.request import Request
from serving.rollout import Rollout
from serving.routes.answers import error_body, headers_of, record_error
from serving.routes.choice import Choice
from serving.routes.inference import SMALL_BYTES, Asked
from serving.tls import tls_files
from serving.v2.asking import ask
from serving.v2.documents import DATA_TYPES, model_config, model_metadata, server_metadata
from serving.v2.grpc_bodies import read_infer, values_of, write_infer
from serving.v2.grpc_messages import MESSAGES, METHODS, REFUSED_METHODS, SERVICE
from serving.v2.repository import Verb, change_repository
from serving.v2.statistics import model_statistics, repository_index
from serving.wanted import Wanted
from tfpipe.core.errors import ConfigError

logger = logging.getLogger(__name__)

_METADATA_BYTES = 64 * 1024
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# What a method needs, where it is not the right to ask models: as over HTTP, see `serving.gate`.
_SCOPES: dict[str, Scope | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}

Handler = Callable[[Any, Request, Any], Awaitable[Any]]


class GrpcServer:
    """Answers the methods of `inference.GRPCInferenceService`; used on the event loop.

    Attributes:
        port: Where it listens; 0 before it does.
    """

    def __init__(self, admission: Admission, rollout: Rollout) -> None:
        """Listen to nothing yet.

        Args:
            admission: What every request passes; its service answers, and that one's settings say where to listen and
                how large a message may be.
            rollout: What loads and unloads versions.
        """
        self.port = 0
        self._admission, self._service, self._rollout = admission, admission.service, rollout
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen on the host of the settings.

        Args:
            port: 0 for any free one.

        Raises:
            ConfigError: The port cannot be had.
        """
        settings = self._service.settings
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                # An answer is as large as it is.
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", _METADATA_BYTES),
                # Else a second service on the port would get half of the first one's requests.
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._methods()),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port = self._listen(server, f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"TFPIPE_SERVING_GRPC_PORT: expected a free port on {host}, received {port}.") from error
        await server.start()
        self._server = server
        logger.info("listening for gRPC", extra={"fields": {"host": settings.host, "port": self.port}})

    def _listen(self, server: grpc.aio.Server, address: str) -> int:
        settings = self._service.settings
        files = tls_files(settings.tls_cert_file, settings.tls_key_file)
        if files is None:
            return int(server.add_insecure_port(address))
        pair = (files.key.read_bytes(), files.cert.read_bytes())
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def stop(self) -> None:
        """Take no more requests; what is still active is cancelled."""
        if self._server is not None:
            await self._server.stop(None)

    def _methods(self) -> Mapping[str, Any]:
        handlers: dict[str, Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        parsers = {name: MESSAGES[f"{name}Request"].FromString for name in METHODS} | {"ModelInfer": _parse_infer}
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answering(name, handlers[name], parsers[name]),
                response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
            )
            for name in METHODS
        }
        refused = {
            name: grpc.unary_unary_rpc_method_handler(self._answering(name, self._refuse, bytes))
            for name in REFUSED_METHODS
        }
        return {**methods, **refused}

    def _answering(
        self, name: str, handler: Handler, parse: Callable[[bytes], Any]
    ) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def answer(content: bytes, context: Any) -> Any:
            request = _request_of(name, context)
            task = self._service.enter()
            try:
                answer, error = await self._outcome(handler, parse, content, request, context)
                status, code = (200, "") if error is None else record_error(error, request, self._service)
                self._admission.record("grpc", request, status)
                if error is not None:
                    text = error_body(error, request.id)["message"]
                    trailing = (("x-error-code", code), ("x-request-id", request.id))
                    await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), text, trailing)
                return answer
            finally:
                self._service.leave(task)

        return answer

    async def _outcome(
        self, handler: Handler, parse: Callable[[bytes], Any], content: bytes, request: Request, context: Any
    ) -> tuple[Any, Exception | None]:
        try:
            request.check_id()
            scope = _SCOPES.get(request.path.rpartition("/")[2], "predict")
            if scope is None:
                return await handler(parse(content), request, context), None
            self._admission.enter(request, scope)
            try:
                if len(content) > SMALL_BYTES:
                    message = await self._service.run(lambda: parse(content))
                else:
                    message = parse(content)
                return await handler(message, request, context), None
            finally:
                self._admission.leave(request)
        # Here rather than in gRPC, which would log a traceback and say that it does not know.
        except DecodeError as error:
            return None, InvalidRequestError(f"{request.path}: expected its message, received other bytes; {error}.")
        except asyncio.CancelledError:
            if not self._service.is_cut:
                raise
            return None, NotReadyError("service: expected time to finish, but it stops now.", status="draining")
        # The outermost edge: whatever it is, it is counted, logged and answered in one form.
        except Exception as error:
            return None, error

    async def _infer(self, given: tuple[Any, bytes], request: Request, context: Any) -> Any:
        service, (message, content) = self._service, given
        wanted = Wanted(message.model_name or None, message.model_version or None)
        choice, asked = Choice(service, request, wanted), Asked(service, request)
        inference = await asked.work(len(content), lambda: read_infer(message))
        choice.settle(inference.routing_key)
        deployment, engine = choice.deployment, choice.deployment.engine
        asked.shorten(inference.timeout_s)
        with asked.patience:
            outputs = await ask(
                deployment,
                inference,
                deadline_s=asked.deadline_s,
                max_image_pixels=service.settings.max_image_pixels,
                stage_s=asked.stage_s,
            )
        answer = write_infer(model_name=engine.name, model_version=engine.version, request=inference, outputs=outputs)
        total_s = time.monotonic() - request.started_s
        trailing = [(name.decode(), value.decode()) for name, value in headers_of(engine, asked.stage_s, total_s)]
        context.set_trailing_metadata((*trailing, ("x-request-id", request.id)))
        return answer

    async def _live(self, message: Any, request: Request, context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _ready(self, message: Any, request: Request, context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._service.health == "ready")

    async def _metadata(self, message: Any, request: Request, context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](**server_metadata())

    async def _model_ready(self, message: Any, request: Request, context: Any) -> Any:
        request.deployment = deployment = self._service.look_up(Wanted(message.name, message.version or None))
        return MESSAGES["ModelReadyResponse"](ready=deployment.is_up)

    async def _model_metadata(self, message: Any, request: Request, context: Any) -> Any:
        request.deployment = deployment = self._service.look_up(Wanted(message.name, message.version or None))
        versions = [one.version for one in self._service.models if one.name == deployment.name]
        document = model_metadata(deployment.engine, [one for one in versions if one is not None])
        return MESSAGES["ModelMetadataResponse"](**document)

    async def _model_config(self, message: Any, request: Request, context: Any) -> Any:
        request.deployment = deployment = self._service.look_up(Wanted(message.name, message.version or None))
        config = model_config(deployment.engine, max_batch_size=self._service.settings.max_batch_size)
        for entry in (*config["input"], *config["output"]):
            entry["data_type"] = DATA_TYPES.index(entry["data_type"])
        parameters = config.pop("parameters")
        answer = MESSAGES["ModelConfigResponse"](config=config)
        for name, value in parameters.items():
            answer.config.parameters[name].string_value = value["string_value"]
        return answer

    async def _model_statistics(self, message: Any, request: Request, context: Any) -> Any:
        deployments = list(self._service.models)
        if message.name:
            found = self._service.look_up(Wanted(message.name, message.version or None))
            deployments = [found] if message.version else [one for one in deployments if one.name == found.name]
        statistics = [model_statistics(self._service, one) for one in deployments]
        return MESSAGES["ModelStatisticsResponse"](model_stats=statistics)

    async def _index(self, message: Any, request: Request, context: Any) -> Any:
        models = repository_index(self._service, ready_only=message.ready)
        return MESSAGES["RepositoryIndexResponse"](models=models)

    async def _load(self, message: Any, request: Request, context: Any) -> Any:
        await self._change("load", message)
        return MESSAGES["RepositoryModelLoadResponse"]()

    async def _unload(self, message: Any, request: Request, context: Any) -> Any:
        await self._change("unload", message)
        return MESSAGES["RepositoryModelUnloadResponse"]()

    async def _change(self, verb: Verb, message: Any) -> None:
        if message.repository_name:
            raise InvalidRequestError(
                f"repository_name: expected none, as there is one repository; received "
                f"{shown(message.repository_name)}."
            )
        parameters = values_of(message.parameters)
        await change_repository(self._service, self._rollout, verb, message.model_name, parameters)

    async def _refuse(self, message: bytes, request: Request, context: Any) -> Any:
        raise InvalidRequestError(f"{request.path}: expected another method, as the service has no such calls.")


def _parse_infer(content: bytes) -> tuple[Any, bytes]:
    """A ModelInferRequest and its bytes, by whose number the rest is read here or in a thread."""
    return MESSAGES["ModelInferRequest"].FromString(content), content


def _request_of(name: str, context: Any) -> Request:
    headers = {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in context.invocation_metadata() or ()
    }
    scope = {"method": "POST", "path": f"/{SERVICE}/{name}", "headers": headers.items(), "query_string": b""}
    return Request.of(scope)
