"""What holds for every test."""

from hypothesis import settings

# Speed is checked by benchmarks: on a busy machine an example may take its time. A test that fails must fail again.
settings.register_profile("tfpipe", deadline=None, derandomize=True)
settings.load_profile("tfpipe")
