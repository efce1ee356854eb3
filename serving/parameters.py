"""What a request asks for besides its input: which model, and until when."""

import difflib
import math
import urllib.parse
from collections.abc import Mapping

from serving.errors import InvalidRequestError, UnknownModelError
from serving.request import Request
from serving.service import AnyEngine

PARAMETERS = ("model_name", "model_version", "alias", "timeout_ms", "features")


def read_parameters(query: bytes) -> dict[str, str]:
    """Query parameters by name.

    Raises:
        InvalidRequestError: Unknown, given twice, or two that contradict each other.
    """
    if not query:
        return {}
    parameters: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(PARAMETERS)}."
            raise InvalidRequestError(f"query: unknown parameter {name!r}. {hint}", parameter=name)
        if name in parameters:
            raise InvalidRequestError(f"query: expected {name!r} once, received it twice.", parameter=name)
        parameters[name] = value
    if "model_version" in parameters and "alias" in parameters:
        raise InvalidRequestError("query: expected 'model_version' or 'alias', received both.", parameter="alias")
    return parameters


def check_model(engine: AnyEngine, parameters: Mapping[str, str]) -> None:
    """Refuse what this model is not: a request is answered by what it names, or not at all.

    Raises:
        UnknownModelError: Another name, version or alias.
        InvalidRequestError: Features are asked for, and its bundle has none.
    """
    name = parameters.get("model_name", engine.name)
    version = parameters.get("model_version", engine.version)
    alias = parameters.get("alias")
    if name != engine.name:
        raise UnknownModelError(f"model_name: expected {engine.name!r}, received {name!r}.", model_name=engine.name)
    if version != engine.version:
        served = repr(engine.version) if engine.version else "none (it is not registered)"
        raise UnknownModelError(
            f"model_version: expected {served} of model {engine.name!r}, received {version!r}.",
            model_name=engine.name,
            model_version=engine.version,
        )
    if alias is not None and alias not in engine.aliases:
        raise UnknownModelError(
            f"alias: expected one of {list(engine.aliases)} of model {engine.name!r}, received {alias!r}.",
            model_name=engine.name,
            aliases=list(engine.aliases),
        )
    _check_features(engine, parameters.get("features", "false"))


def timeout_s(request: Request, parameters: Mapping[str, str], *, longest_s: float) -> float:
    """Seconds until the answer is worth nothing: the least of the service's own and those that the request names.

    Raises:
        InvalidRequestError: Not a number of milliseconds above 0.
    """
    given = {
        "timeout_ms": parameters.get("timeout_ms"),
        "X-Timeout-Ms": request.headers.get(b"x-timeout-ms", b"").decode("latin-1") or None,
    }
    return min([longest_s, *(_milliseconds(name, text) / 1000 for name, text in given.items() if text is not None)])


def _check_features(engine: AnyEngine, features: str) -> None:
    if features not in ("true", "false"):
        raise InvalidRequestError(f"features: expected true or false, received {features!r}.", parameter="features")
    if features == "true" and not engine.gives_features:
        raise InvalidRequestError(
            f"features: expected false, as the bundle of model {engine.name!r} gives no features. Convert it with "
            "conversion.features=true.",
            parameter="features",
        )


def _milliseconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # `not <` rather than `>=`: not a number must fail.
    if not 0 < value < math.inf:
        raise InvalidRequestError(f"{name}: expected milliseconds above 0, received {text!r}.", parameter=name)
    return value
