"""What a version has done, in the words of Triton's statistics extension."""

from typing import Any

from serving.deployment import Deployment
from serving.service import Service


def model_statistics(service: Service, deployment: Deployment) -> dict[str, Any]:
    """Counts of every protocol; those of requests that failed are in the service's metrics, by code and by type."""
    stages = service.metrics.stage_totals(model=deployment.name, version=deployment.version or "")
    # Those that were answered have it, and no others.
    answered = stages.get("postprocess", (0, 0.0))[0]
    counts = deployment.counts

    def duration(*names: str) -> dict[str, int]:
        return {"count": answered, "ns": round(sum(stages.get(name, (0, 0.0))[1] for name in names) * 1e9)}

    return {
        "name": deployment.name,
        "version": deployment.version or "",
        "last_inference": round(counts.last_s * 1000),
        "inference_count": counts.rows,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": duration("body", "decode", "preprocess", "queue", "run", "postprocess"),
            "queue": duration("queue"),
            "compute_input": duration("decode", "preprocess"),
            "compute_infer": duration("run"),
            "compute_output": duration("postprocess"),
        },
        "batch_stats": [],
    }


def repository_index(service: Service, *, ready_only: bool) -> list[dict[str, str]]:
    """Every version that is loaded, and whether it takes requests."""
    is_ready = service.status == "ready"
    if ready_only and not is_ready:
        return []
    state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", service.status)
    return [
        {"name": one.name, "version": one.version or "", "state": state, "reason": reason} for one in service.models
    ]
