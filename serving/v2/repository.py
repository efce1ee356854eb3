"""Versions loaded and unloaded from outside.

Source: Triton, "Model Repository Extension". A model is not loaded as a whole: routing says which of its versions has
traffic, and that one is loaded always. So the name may end in a version, as in the paths of the models:
`NAME/versions/VERSION`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from serving.errors import InvalidRequestError
from serving.json_values import shown
from serving.rollout import Rollout
from serving.routes.admin import changed
from serving.service import Service

Verb = Literal["load", "unload"]
_WHY_NOT = "files and configuration of a version are those of its bundle"


async def change_repository(
    service: Service, rollout: Rollout, verb: Verb, name: str, parameters: Mapping[str, Any]
) -> None:
    """Load or unload a version; without one, loading says whether the model is there.

    Args:
        service: Whose models.
        rollout: What loads and unloads.
        verb: Which of both.
        name: `NAME` or `NAME/versions/VERSION`.
        parameters: Of the request.

    Raises:
        InvalidRequestError: Another name, or parameters that are not taken.
        UnknownModelError: No such model or version.
        ConflictError: The version has traffic, or cannot be served.
        TrackingError: The registry is away.
    """
    _check_parameters(verb, parameters)
    match name.split("/"):
        case [str(model), "versions", str(version)] if model and version:
            await changed(rollout.load(model, version) if verb == "load" else rollout.unload(model, version))
        case [str(model)] if model and verb == "load":
            # What has traffic is loaded already.
            service.models.routing(model)
        case [str(model)] if model:
            service.models.routing(model)
            raise InvalidRequestError(
                f"unload: expected NAME/versions/VERSION, received {shown(model)}: one of its versions has traffic. "
                "POST /v2/repository/index lists them."
            )
        case _:
            raise InvalidRequestError(f"{verb}: expected NAME or NAME/versions/VERSION, received {shown(name)}.")


def _check_parameters(verb: Verb, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if verb == "load" or name != "unload_dependents":
            known = "none" if verb == "load" else "unload_dependents"
            raise InvalidRequestError(f"parameters: expected {known}, received {shown(name)}; {_WHY_NOT}.")
        # No version depends on another: true and false come to the same.
        if type(value) is not bool:
            raise InvalidRequestError(f"parameters.{name}: expected true or false, received {shown(value)}.")
