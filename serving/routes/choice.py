"""Which version answers a request whose routing key may stand in its body, which is not read yet."""

from collections.abc import Callable

from serving.deployment import Deployment
from serving.parameters import agreed_key, routing_key
from serving.request import Request
from serving.runs import AnyEngine
from serving.service import Service
from serving.wanted import Wanted

Find = Callable[[Wanted], Deployment]


def plainly(wanted: Wanted, find: Find) -> Deployment:
    """A version as it is named."""
    return find(wanted)


class Choice:
    """The way of one request to its version.

    A refusal does not wait for the body: until it is read, a version that may answer stands for the one that will.

    Attributes:
        deployment: Before `settle`, what the body is read for; then, what answers.
    """

    __slots__ = ("_is_open", "_key", "_request", "_resolve", "_service", "_wanted", "deployment")

    def __init__(
        self,
        service: Service,
        request: Request,
        wanted: Wanted,
        *,
        resolve: Callable[[Wanted, Find], Deployment] = plainly,
    ) -> None:
        """Choose by what stands before the body.

        Args:
            service: Whose models.
            request: Its version is told to it.
            wanted: What it names.
            resolve: What a protocol makes of names, given how to find one.

        Raises:
            RequestError: See `Service.find`.
        """
        self._service, self._request, self._wanted, self._resolve = service, request, wanted, resolve
        self._key = routing_key(request)
        self._is_open = self._key is None and service.models.may_go_by_key(wanted)
        self.deployment = request.deployment = resolve(wanted, service.look_up if self._is_open else self._find)

    def check_room(self, *, deadline_s: float) -> None:
        """Refuse a request before its body is read, where that is certain; see `Deployment.check_room`."""
        if not self._is_open:
            self.deployment.check_room(deadline_s=deadline_s)

    def settle(self, given: str | None) -> bool:
        """Choose by the body's key, where that decides.

        Args:
            given: It; None where the body has none.

        Returns:
            Whether the version that answers takes or gives other things than that which the body was read for.

        Raises:
            RequestError: See `Service.find`; or the header has another key.
        """
        if given is not None:
            self._key = agreed_key(self._key, given)
        if not self._is_open:
            return False
        before = self.deployment.engine
        self.deployment = self._request.deployment = self._resolve(self._wanted, self._find)
        return _interface(before) != _interface(self.deployment.engine)

    def _find(self, wanted: Wanted) -> Deployment:
        return self._service.find(wanted, self._request, key=self._key)


def _interface(engine: AnyEngine) -> tuple[object, ...]:
    return engine.task, engine.takes, engine.inputs, engine.gives_features
