"""What holds for every test."""

from hypothesis import settings

# Speed is checked by benchmarks: on a busy machine an example may take its time.
settings.register_profile("tfpipe", deadline=None, print_blob=True)
settings.load_profile("tfpipe")
