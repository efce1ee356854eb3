"""What every target is given to write."""

from dataclasses import dataclass

import tfpipe
from tfpipe.core.bundle import Bundle, Variant


@dataclass(frozen=True)
class Job:
    """One bundle on its way to one server.

    Attributes:
        bundle: Checked.
        name: Under which the server knows the model: letters, digits, ".", "_", "-".
        version: A whole number as text, as servers want versions to be.
        variant: The variant to export.
        triton_backend: "python" or "onnxruntime".
        device: "cpu" or "gpu".
    """

    bundle: Bundle
    name: str
    version: str
    variant: Variant
    triton_backend: str
    device: str

    @property
    def origin(self) -> str:
        """A sentence for the README of what is exported."""
        task = self.bundle.manifest.task.replace("_", " ")
        return (
            f"Model `{self.name}` version {self.version} ({task}), exported by tfpipe {tfpipe.__version__} from the\n"
            f"bundle with sha256 `{self.bundle.sha256}`."
        )
