"""Every setting of the service, read from the environment once."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tfpipe.core.errors import ConfigError
from tfpipe.decode import MAX_IMAGE_PIXELS
from tfpipe.inference.texts import MAX_TEXT_CHARS
from tfpipe.tuned import DEFAULT_CACHE_DIR

PREFIX = "TFPIPE_SERVING_"
REGISTERED_MODEL = "TFPIPE_REGISTERED_MODEL"
_DEFAULT_PORT = 8000

# What Kubernetes injects into every pod for a Service whose name begins with "tfpipe-serving".
# Source: Kubernetes documentation, "Service: environment variables" (Docker links compatible).
_INJECTED_NAME = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_INJECTED_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Milliseconds = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
# More than any machine has cores: what is greater is a slip, and would be waited for in vain.
CountOfCores = Annotated[int, Field(ge=1, le=1024)]
File = Annotated[Path, "file"]


class ServingSettings(BaseSettings):
    """Settings of the service; each is read from `TFPIPE_SERVING_<NAME>`, an empty value counting as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    model: str | None = Field(
        None,
        description="A bundle's folder, `models:/NAME/VERSION` or `models:/NAME@ALIAS`; several with commas, each with "
        "`NAME=` before it where it is to answer under another name. Unset: `models:/NAME@champion`, NAME being "
        "TFPIPE_REGISTERED_MODEL, else the only registered model.",
    )
    registered_model: str | None = Field(
        None, validation_alias=REGISTERED_MODEL, description="Registered model to serve where MODEL is unset."
    )
    precision: str = Field(
        "auto",
        description="Variant to serve: `fp32`, `fp16`, `int8`; auto: what `tfpipe tune` chose on this machine, else "
        "in the order of conversion.",
    )
    provider: Annotated[Literal["auto", "cpu", "openvino", "cuda", "tensorrt"], BeforeValidator(_lower)] = Field(
        "auto",
        description="What runs the model; auto: what `tfpipe tune` chose on this machine, else CUDA where there is a "
        "GPU, else in the order of conversion.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(_DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the Open Inference Protocol over gRPC; unset: none."
    )
    isolation: Annotated[Literal["process", "inline"] | None, BeforeValidator(_lower)] = Field(
        None,
        description="Where models run: `process`, each session in a process of its own, whose crash or hang costs one "
        "batch; `inline`, in the service's own; unset: process where MODEL names several.",
    )
    sessions: CountOfCores = Field(
        1, description="Batches of a model version that run side by side, each in its own session."
    )
    threads: CountOfCores | None = Field(
        None,
        description="Threads inside one run of the model; unset: the cores that affinity and CPU quota leave, shared "
        "by SESSIONS.",
    )
    max_batch_size: Count = Field(8, description="Most rows in one run of the model.")
    max_queue_delay_ms: int = Field(
        0,
        ge=0,
        description="Longest time for which rows wait for others to be run with; 0: a free session never waits.",
    )
    max_queue_rows: Count = Field(
        1024, description="Most rows admitted and not yet answered, a model version; more are refused with 429."
    )
    max_queue_bytes: Count = Field(256 * 2**20, description="Most bytes of their inputs; more are refused with 429.")
    max_body_bytes: Count = Field(32 * 2**20, description="Largest request body; a larger one is refused with 413.")
    max_image_pixels: Count = Field(
        MAX_IMAGE_PIXELS, description="Largest image, told from its header; a larger one is refused with 413."
    )
    max_text_chars: Count = Field(
        MAX_TEXT_CHARS, description="Longest text, in characters; a longer one is refused with 413."
    )
    timeout_ms: Milliseconds = Field(
        60_000,
        description="Longest time from a request's arrival to its answer, else 504; a request may ask for less.",
    )
    run_timeout_ms: Milliseconds = Field(
        30_000, description="Longest run of the model; one that takes longer is ended, its requests get 504."
    )
    body_timeout_ms: Milliseconds = Field(30_000, description="Longest time for a body to arrive, else 408.")
    keep_alive_s: Count = Field(
        75,
        description="Time for which a connection may rest between requests; longer than that of a load balancer before "
        "the service (60 s is usual), or requests are lost now and then.",
    )
    drain_ms: Milliseconds = Field(20_000, description="Time that active requests get to finish after SIGTERM.")
    registry_wait_ms: Milliseconds = Field(
        30_000,
        description="Longest time for which a registry that is away is asked again; after it, a service that starts "
        "takes the bundle that it served last, if CACHE_DIR has it.",
    )
    registry_poll_ms: Milliseconds = Field(
        500,
        description="Time between two looks at the registry for another routing; of a model that is served as its "
        "champion.",
    )
    feedback_ttl_s: Count = Field(
        3600, description="Time for which `/feedback` on an answer is taken, for the newest 16,384 answers."
    )
    drift_window_rows: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Newest rows of each version that are compared with its training data; fewer than 100 say nothing, "
        "0 compares none.",
    )
    cache_bytes: int = Field(
        0, ge=0, description="Most bytes of answers to keep for inputs that come again; 0 keeps none."
    )
    api_keys_file: File | None = Field(
        None,
        description="Who may ask, as `tfpipe keys create` writes it. Unset: anybody may predict, nobody administer.",
    )
    rate_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="Requests a second of each API key that has no limit of its own, and of all callers together where "
        "there are no keys; more are refused with 429.",
    )
    tls_cert_file: File | None = Field(
        None, description="Certificate in PEM, those that signed it after it; serves HTTPS, with TLS_KEY_FILE."
    )
    tls_key_file: File | None = Field(None, description="Private key of TLS_CERT_FILE in PEM, without a password.")
    traces_endpoint: str | None = Field(
        None,
        description="Where to send OpenTelemetry traces, as OTLP in JSON over HTTP, e.g. `http://127.0.0.1:4318`; "
        "needs `pip install tfpipe[tracing]`.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="Least level that is logged; debug has a line for every request."
    )
    cache_dir: Path = Field(
        DEFAULT_CACHE_DIR,
        description="Where bundles of the registry are kept, by their checksum, and what `tfpipe tune` chose.",
    )

    @field_validator("port", "grpc_port", mode="before")
    @classmethod
    def _not_injected(cls, value: Any, info: ValidationInfo) -> Any:
        # Kubernetes sets TFPIPE_SERVING_PORT=tcp://10.0.0.1:8000 beside a Service that is named tfpipe-serving.
        if isinstance(value, str) and _INJECTED_VALUE.fullmatch(value):
            return _DEFAULT_PORT if info.field_name == "port" else None
        return value


def read_settings(overrides: Mapping[str, Any] | None = None) -> ServingSettings:
    """Read the settings from the environment.

    Args:
        overrides: Values by field name, e.g. {"port": "9000"}; they win over the environment.

    Raises:
        ConfigError: Unknown names and impossible values, all of them at once.
    """
    problems = _unknown_names(os.environ)
    try:
        settings = ServingSettings(**dict(overrides or {}))
    except ValidationError as error:
        problems += [_describe(entry) for entry in error.errors()]
    else:
        if settings.grpc_port and settings.grpc_port == settings.port:
            another = f"another port than {variable_of('port')}'s"
            problems.append(f"{variable_of('grpc_port')}: expected {another}, received {settings.grpc_port}.")
    if problems:
        raise ConfigError("settings: " + " ".join(problems))
    return settings


def documented_settings() -> Iterator[tuple[str, str, str, str]]:
    """Environment variable, type, default and meaning of each setting, in order."""
    for name, field in ServingSettings.model_fields.items():
        default = "unset" if field.default is None else str(field.default)
        yield variable_of(name), _type_name(field.annotation), default, field.description or ""


def variable_of(name: str) -> str:
    """The environment variable of a field, e.g. "port" -> "TFPIPE_SERVING_PORT"."""
    return REGISTERED_MODEL if name == "registered_model" else PREFIX + name.upper()


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    known = [variable_of(name) for name in ServingSettings.model_fields]
    problems = []
    for name, value in environ.items():
        # Small letters would be heeded, too, and contradict capitals unseen.
        if not name.upper().startswith(PREFIX) or name in known or _INJECTED_NAME.fullmatch(name.removeprefix(PREFIX)):
            continue
        if name.endswith("_PORT") and _INJECTED_VALUE.fullmatch(value):
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
        problems.append(f"{name}: unknown setting. Did you mean {close[0]}?")
    return problems


def _describe(entry: Any) -> str:
    name = str(entry["loc"][0])
    variable = name if name == REGISTERED_MODEL else variable_of(name)
    expected = entry["msg"].removeprefix("Input should be ")
    return f"{variable}: expected {expected}, received {entry['input']!r}."


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        # What a Path is of stands beside it.
        if "file" in get_args(kind):
            return "file"
        return _type_name(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    for part in get_args(kind):
        if part is not type(None):
            return _type_name(part)
    return {"str": "text", "int": "integer", "float": "number", "Path": "folder"}[kind.__name__]
