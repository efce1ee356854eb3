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
        "batch_stats": [
            _of_batches(rows, *seen) for rows, seen in sorted(deployment.batcher.room.pace.by_rows.items())
        ],
    }


def _of_batches(rows: int, count: int, seconds: float) -> dict[str, Any]:
    # Inputs are made for each request, before batches are formed, and answers after: neither is in a batch's time.
    outside = {"count": count, "ns": 0}
    return {
        "batch_size": rows,
        "compute_input": outside,
        "compute_infer": {"count": count, "ns": round(seconds * 1e9)},
        "compute_output": outside,
    }


def repository_index(service: Service, *, ready_only: bool) -> list[dict[str, str]]:
    """Every version that is loaded, and whether it takes requests."""
    reasons = {one: _why_not(service, one) for one in service.models}
    return [
        {
            "name": one.name,
            "version": one.version or "",
            "state": "UNAVAILABLE" if reason else "READY",
            "reason": reason,
        }
        for one, reason in reasons.items()
        if not (ready_only and reason)
    ]


def _why_not(service: Service, deployment: Deployment) -> str:
    if service.status != "ready":
        return service.status
    return "" if deployment.is_up else "its process ended and is not there again yet"
