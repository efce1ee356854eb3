"""A clock that tests turn by hand."""


class FakeClock:
    """Seconds that only tests move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
