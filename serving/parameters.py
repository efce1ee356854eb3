"""What a request asks for besides its input: which model, and until when."""

import difflib
import math
import urllib.parse
from collections.abc import Mapping

from serving.errors import InvalidRequestError
from serving.json_values import shown
from serving.request import Request
from serving.runs import AnyEngine
from serving.wanted import Wanted

# In a body; the header X-Routing-Key means the same.
ROUTING_KEY = "routing_key"
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


def wanted_of(parameters: Mapping[str, str]) -> Wanted:
    """Which model they name."""
    return Wanted(parameters.get("model_name"), parameters.get("model_version"), parameters.get("alias"))


def routing_key(request: Request) -> str | None:
    """X-Routing-Key: requests with the same go to the same version, where routing is sticky."""
    key = request.headers.get(b"x-routing-key")
    if key is None:
        return None
    try:
        # As in a body, so that the same key is the same.
        return key.decode()
    except UnicodeDecodeError:
        return key.decode("latin-1")


def key_of_body(value: object, where: str) -> str | None:
    """What a body has for a routing key; None for none.

    Raises:
        InvalidRequestError: No string.
    """
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequestError(f"{where}: expected a string, received {shown(value)}.", field=ROUTING_KEY)


def agreed_key(header: str | None, body: str | None) -> str | None:
    """The one routing key of a request.

    Raises:
        InvalidRequestError: Header and body have unlike ones.
    """
    if header is not None and body is not None and header != body:
        raise InvalidRequestError(
            f"{ROUTING_KEY}: expected that of X-Routing-Key, {shown(header)}, or none, received {shown(body)}.",
            field=ROUTING_KEY,
        )
    return body if header is None else header


def timeout_s(request: Request, parameters: Mapping[str, str], *, longest_s: float) -> float:
    """Seconds until the answer is worth nothing: the least of the service's own and those that the request names.

    Raises:
        InvalidRequestError: Not a number of milliseconds above 0.
    """
    if b"x-timeout-ms" not in request.headers and "timeout_ms" not in parameters:
        return longest_s
    given = {
        "timeout_ms": parameters.get("timeout_ms"),
        "X-Timeout-Ms": request.headers.get(b"x-timeout-ms", b"").decode("latin-1") or None,
    }
    return min([longest_s, *(_milliseconds(name, text) / 1000 for name, text in given.items() if text is not None)])


def wants_features(engine: AnyEngine, parameters: Mapping[str, str]) -> bool:
    """Whether the vector before the head is asked for.

    Raises:
        InvalidRequestError: Neither true nor false, or the bundle has none.
    """
    features = parameters.get("features", "false")
    if features not in ("true", "false"):
        raise InvalidRequestError(f"features: expected true or false, received {features!r}.", parameter="features")
    if features == "true" and not engine.gives_features:
        raise InvalidRequestError(
            f"features: expected false, as the bundle of model {engine.name!r} gives no features. Convert it with "
            "conversion.features=true.",
            parameter="features",
        )
    return features == "true"


def _milliseconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # `not <` rather than `>=`: not a number must fail.
    if not 0 < value < math.inf:
        raise InvalidRequestError(f"{name}: expected milliseconds above 0, received {text!r}.", parameter=name)
    return value
