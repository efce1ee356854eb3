"""A connection without a socket."""

import asyncio


class Transport(asyncio.Transport):
    """Keeps what is written, and whether it is read."""

    def __init__(self):
        super().__init__()
        self.written, self.is_closed, self.is_reading = b"", False, True

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True
