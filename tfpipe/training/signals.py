"""A polite stop: the first signal asks training to save and end, the second ends it at once."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """While entered, SIGINT and SIGTERM are remembered rather than raised.

    Attributes:
        signal_name: The signal that came, or None.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is not None:
            # The user insists.
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
