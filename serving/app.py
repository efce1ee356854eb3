"""The application: wiring and lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match
from starlette.types import Scope

import tfpipe
from serving.admission import Admission, Protocol
from serving.cpus import threads_of_sessions, usable_cores
from serving.drift import open_drift
from serving.engine import Engine
from serving.errors import MethodError, UnknownPathError
from serving.foreign_schemas import foreign_components, foreign_paths
from serving.gate import Gate, scope_of
from serving.golden_watch import replay_when_idle
from serving.gpu import open_nvml
from serving.gpu_memory import GpuMemory
from serving.keys import Keys
from serving.limits import KeyLimits
from serving.metrics import Metrics
from serving.request import Request
from serving.rollout import Origins, Rollout
from serving.routes.admin import administration
from serving.routes.answers import refuse, refuse_in_a_sentence
from serving.routes.api_page import documentation
from serving.routes.drift import drift
from serving.routes.feedback import feedback
from serving.routes.open_inference import OpenInferenceRoutes
from serving.routes.operations import operations
from serving.routes.predict import PredictRoutes
from serving.routes.tensorflow_serving import TensorFlowServingRoutes
from serving.runs import AnyEngine
from serving.schemas import components, inference_paths, security_schemes
from serving.selection import Candidate, candidates, open_first
from serving.service import Service
from serving.sessions import Isolation, Plan, opener
from serving.settings import ServingSettings
from serving.source import ServedBundle, fetch_bundles, names_several
from serving.sources import Sources
from serving.tensor_engine import TensorEngine
from serving.tracing import open_tracing
from serving.v2.fast_path import FastPath
from tfpipe.core.errors import ConfigError
from tfpipe.tuned import engines_dir, find_choice, this_machine

logger = logging.getLogger(__name__)

_METHODS = ("GET", "POST", "PUT", "DELETE")


def create_app(
    settings: ServingSettings,
    *,
    open_engines: Callable[[], Iterable[AnyEngine]] | None = None,
    origins: Origins | None = None,
    metrics: Metrics | None = None,
    on_load_error: Callable[[Exception], None] | None = None,
    on_loaded: Callable[[], None] | None = None,
) -> Admission:
    """Build the ASGI application; it loads its model when its lifespan begins.

    Args:
        settings: See `serving.settings`.
        open_engines: Opens the models; by default those that the settings name.
        origins: Where other versions and routing documents come from; by default as the settings say.
        metrics: Where to record; by default with the GPUs that NVML finds.
        on_load_error: Called where the model cannot be served; by default it is logged, and the service stays
            "loading".
        on_loaded: Called once the models are loaded, before any request is taken.

    Raises:
        ConfigError: The file of API keys or the address for traces cannot be used.
    """
    gpus = open_nvml()
    service = Service(
        settings,
        metrics or Metrics(gpus=gpus),
        open_engines or (lambda: engines_of_settings(settings)),
        gpu_memory=GpuMemory(gpus),
    )
    gate = Gate(Keys(settings.api_keys_file), KeyLimits(settings.rate_limit))
    tracing = open_tracing(settings.traces_endpoint)
    # Where sessions of the first versions run, for all that come later: a canary is compared with them.
    origins = origins or Sources(settings, lambda served: open_engine(served, settings, isolation_of(settings)))
    rollout = Rollout(service, origins, poll_s=settings.registry_poll_ms / 1000)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(replay_when_idle(service.replay_golden, lambda: service.is_idle))
        loading = asyncio.create_task(_load(service, rollout, on_load_error, on_loaded))
        grpc_server = await _grpc_server(admission, rollout, on_load_error)
        yield
        if grpc_server is not None:
            await grpc_server.stop()
        for task in (watching, loading):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await rollout.close()
        service.close()
        if admission.fast_path is not None:
            admission.fast_path.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    api = _api(service, rollout, lifespan, with_keys=settings.api_keys_file is not None)
    protocols = {
        "predict": Protocol("rest", PredictRoutes(service).predict, refuse),
        "v1": Protocol("tfserving", TensorFlowServingRoutes(service).handle, refuse_in_a_sentence),
        "v2": Protocol("v2", OpenInferenceRoutes(service, rollout).handle, refuse_in_a_sentence),
    }
    # Where each request is traced or logged, none goes another way.
    fast_path = None if tracing is not None or settings.log_level == "debug" else FastPath(service, gate)
    admission = Admission(service, protocols, api, gate=gate, tracing=tracing, fast_path=fast_path)
    return admission


def _api(
    service: Service,
    rollout: Rollout,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    *,
    with_keys: bool,
) -> FastAPI:
    """What is not inference, and the description of all."""
    api = FastAPI(
        title="tfpipe",
        version=tfpipe.__version__,
        description="Answers with what was trained.",
        lifespan=lifespan,
        # Their scripts come from elsewhere; see serving.routes.api_page.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.include_router(operations(service))
    api.include_router(administration(service, rollout))
    api.include_router(feedback(service))
    api.include_router(drift(service))
    api.include_router(documentation(api))
    _answer_errors_in_one_form(api, service)
    _document_inference(api, with_keys=with_keys)
    return api


def engines_of_settings(settings: ServingSettings) -> Iterator[AnyEngine]:
    """Fetch each bundle that the settings name, and open it in the first way that gives training's golden answers.

    Raises:
        TfpipeError: One cannot be served.
    """
    isolation = isolation_of(settings)
    for served in fetch_bundles(
        settings.model,
        registered_model=settings.registered_model,
        cache_dir=settings.cache_dir,
        registry_wait_s=settings.registry_wait_ms / 1000,
    ):
        yield open_engine(served, settings, isolation)


def isolation_of(settings: ServingSettings) -> Isolation:
    """Where sessions run: as the settings say, else in processes of their own where several models are served."""
    return settings.isolation or ("process" if names_several(settings.model) else "inline")


def open_engine(served: ServedBundle, settings: ServingSettings, isolation: Isolation) -> AnyEngine:
    """Open a bundle in the first way that gives training's golden answers.

    Args:
        served: The bundle and its names.
        settings: What may be run, and how.
        isolation: Where sessions run.

    Raises:
        TfpipeError: It cannot be served.
    """
    choice, untuned = find_choice(settings.cache_dir, served.bundle, this_machine())
    listed = candidates(
        served.bundle, precision=settings.precision, provider=settings.provider, choice=choice, untuned=untuned
    )

    threads = settings.threads or threads_of_sessions(usable_cores(), settings.sessions)
    title = f"{served.name}/{served.version}" if served.version else served.name
    open_model = opener(title, Plan(isolation, settings.sessions, settings.provider, settings.log_level))

    def open_tensors(candidate: Candidate) -> TensorEngine:
        cache = engines_dir(settings.cache_dir)
        return TensorEngine.open(served, candidate.execution, threads=threads, engines_dir=cache, open_model=open_model)

    def open_one(candidate: Candidate) -> Engine:
        return Engine.open(
            served,
            precision=candidate.execution.variant,
            provider=candidate.execution.provider,
            arithmetic=candidate.execution.arithmetic,
            threads=threads,
            max_batch_size=settings.max_batch_size,
            max_image_pixels=settings.max_image_pixels,
            max_text_chars=settings.max_text_chars,
            engines_dir=engines_dir(settings.cache_dir),
            open_model=open_model,
        )

    if served.bundle.manifest.task == TensorEngine.task:
        return open_first(listed, open_tensors)
    engine = open_first(listed, open_one)
    engine.drift = open_drift(served.bundle, rows=settings.drift_window_rows)
    return engine


async def _grpc_server(admission: Admission, rollout: Rollout, on_error: Callable[[Exception], None] | None) -> Any:
    port = admission.service.settings.grpc_port
    if port is None:
        return None
    # Here, as gRPC costs memory that a service without it should not have.
    from serving.v2.grpc_server import GrpcServer

    server = GrpcServer(admission, rollout)
    try:
        await server.start(port)
    except ConfigError as error:
        if on_error is None:
            raise
        on_error(error)
        return None
    admission.service.grpc_port = server.port
    return server


async def _load(
    service: Service,
    rollout: Rollout,
    on_error: Callable[[Exception], None] | None,
    on_loaded: Callable[[], None] | None,
) -> None:
    async def begin() -> None:
        await rollout.begin()
        if on_loaded is not None:
            on_loaded()

    try:
        await service.load(begin)
        await rollout.follow()
    # The outermost edge of loading: the process ends with it, or the log has it.
    except Exception as error:
        if on_error is None:
            logger.exception("loading failed")
        else:
            on_error(error)


def _answer_errors_in_one_form(api: FastAPI, service: Service) -> None:
    async def answer(http_request: HttpRequest, error: Exception) -> Response:
        request: Request = http_request.state.request
        if isinstance(error, StarletteHTTPException) and error.status_code == 405:
            error = _wrong_method(request, _methods_of(api, http_request.scope))
        answer = refuse(_in_our_words(error, request), request, service)
        # Under the outermost function, which adds the request id.
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers, media_type="application/json")

    api.add_exception_handler(StarletteHTTPException, answer)
    api.add_exception_handler(Exception, answer)


def _wrong_method(request: Request, allowed: list[str]) -> MethodError:
    return MethodError(f"{request.path}: expected {' or '.join(allowed)}, received {request.method}.", allowed=allowed)


def _methods_of(api: FastAPI, scope: Scope) -> list[str]:
    # Starlette's own Allow has those of the first route of a path; a path may have several.
    return [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in api.router.routes)
    ]


def _in_our_words(error: Exception, request: Request) -> Exception:
    if isinstance(error, StarletteHTTPException):
        return UnknownPathError(f"{request.path}: no such path. GET / lists those that there are.", path=request.path)
    return error


def _document_inference(api: FastAPI, *, with_keys: bool) -> None:
    own = api.openapi

    def openapi() -> dict[str, Any]:
        schema = own()
        if "/predict" not in schema["paths"]:
            schema["paths"] = {**inference_paths(), **foreign_paths(), **schema["paths"]}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(components() | foreign_components())
            if with_keys:
                _document_keys(schema)
        return schema

    api.openapi = openapi  # type: ignore[method-assign]


def _document_keys(schema: dict[str, Any]) -> None:
    schema["components"]["securitySchemes"] = security_schemes()
    either: list[dict[str, list[str]]] = [{name: []} for name in security_schemes()]
    for path, operations_of_path in schema["paths"].items():
        for operation in operations_of_path.values() if scope_of(path) else ():
            operation["security"] = either
