"""Every exception that tfpipe raises on purpose.

    TfpipeError                 exit code 1
    ├── ConfigError             2   configuration or command line
    ├── DataError               2   a data set that cannot be used
    │   └── DecodeError         2   bytes that are no image or text
    │       └── InputTooLargeError  2   an image or text above its limit
    ├── SignatureError          2   an array of the wrong name, dtype or shape
    ├── CheckpointError         2   a checkpoint that is damaged or of another model
    ├── BundleError             2   a bundle that is incomplete or changed
    ├── RegistryError           2   an unknown model, version or alias
    │   └── RoutingConflictError    1   somebody else has changed the routing meanwhile
    ├── TrackingError           1   the tracking server is away
    ├── ConversionError         1   a model that cannot be converted
    ├── InferenceError          1   a model that fails on an input, although that is as declared
    ├── TrainingError           1   training that cannot go on (loss not finite, too many corrupt samples)
    ├── GateError               3   a quality gate: accuracy, size, parity
    └── StoppedError           75   stopped by a signal; can be resumed

The message is one clear sentence or two: where, what was expected, what was received, what to do. The outermost edge
(a command, the HTTP layer) prints it without a traceback and exits with `exit_code`.
"""


class TfpipeError(Exception):
    """Base of all errors that tfpipe raises on purpose."""

    exit_code = 1


class ConfigError(TfpipeError, ValueError):
    """The configuration or command line cannot be used; lists every problem found."""

    exit_code = 2


class DataError(TfpipeError, ValueError):
    """A data set is missing, empty or contradicts itself."""

    exit_code = 2


class DecodeError(DataError):
    """Bytes could not be read as an image (or text)."""


class InputTooLargeError(DecodeError):
    """An image or text above its limit.

    Attributes:
        details: Facts of the message for programs, e.g. {"expected_pixels": 10, "received_pixels": 12}.
    """

    def __init__(self, message: str, **details: int) -> None:
        super().__init__(message)
        self.details = details


class SignatureError(TfpipeError, ValueError):
    """An array does not have the declared name, dtype or shape."""

    exit_code = 2


class CheckpointError(TfpipeError):
    """A checkpoint is damaged, missing, or of another model."""

    exit_code = 2


class BundleError(TfpipeError):
    """A bundle is incomplete, changed, or of an unknown format version."""

    exit_code = 2


class RegistryError(TfpipeError):
    """The registry does not know the model, version or alias asked for."""

    exit_code = 2


class RoutingConflictError(RegistryError):
    """A change of the routing follows a document that is not the newest any more."""

    exit_code = 1


class TrackingError(TfpipeError):
    """The tracking server cannot be reached; the training result is kept on disk."""


class ConversionError(TfpipeError):
    """A model, or one pass over it, could not be converted."""


class InferenceError(TfpipeError):
    """A model could not answer, although its input is as declared."""


class TrainingError(TfpipeError):
    """Training cannot go on."""


class GateError(TfpipeError):
    """A quality gate was missed; the message holds the numbers."""

    exit_code = 3


class StoppedError(TfpipeError):
    """Stopped by a signal after saving; can be resumed."""

    exit_code = 75
