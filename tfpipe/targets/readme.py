"""README.md of an exported folder."""

from pathlib import Path
from string import Template
from typing import Any

from tfpipe.core.bundle import Manifest
from tfpipe.targets.job import Job


def render(template: str, job: Job, **values: Any) -> str:
    """A README.

    Args:
        template: Of `readme_TEMPLATE.md` beside this module.
        job: What is exported.
        values: What the template asks for beyond the job's own.
    """
    text = Path(__file__).with_name(f"readme_{template}.md").read_text(encoding="utf-8")
    own = {
        "name": job.name,
        "version": job.version,
        "origin": job.origin,
        "precision": job.variant.precision,
        "device": job.device.upper(),
    }
    return Template(text).substitute(own | values)


def tensor_table(manifest: Manifest) -> str:
    """What a model graph takes and gives, as a table."""
    kinds = (("input", manifest.inputs), ("output", manifest.outputs))
    rows = [
        f"| {kind} | `{spec.name}` | {spec.dtype} ({', '.join(map(str, spec.shape))}) |"
        for kind, specs in kinds
        for spec in specs
    ]
    return "\n".join(["| | | |", "|---|---|---|", *rows])
