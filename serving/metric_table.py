"""Every metric of the service: name, kind, labels and meaning, as /metrics and docs/metrics.md give them."""

from dataclasses import dataclass
from typing import Literal

STAGES = ("body", "decode", "preprocess", "queue", "run", "postprocess", "total")
_WHO = ("model", "version")

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """One metric, as the documentation lists it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    text: str


METRICS = (
    Described("tfpipe_requests_total", "counter", (*_WHO, "protocol", "code"), "Finished requests."),
    Described("tfpipe_errors_total", "counter", (*_WHO, "type"), "Errors by their code; in a batch, one a row."),
    Described(
        "tfpipe_latency_seconds", "histogram", (*_WHO, "stage"), "Seconds by stage of a request; total is all of it."
    ),
    Described("tfpipe_answer_latency_seconds", "histogram", _WHO, "Seconds of whole requests with a status below 400."),
    Described(
        "tfpipe_latency_quantile_seconds",
        "gauge",
        (*_WHO, "quantile"),
        "Quantiles of whole requests with a status below 400 over the last minute, to 1 %.",
    ),
    Described("tfpipe_throughput_rps", "gauge", _WHO, "Requests per second over the last minute."),
    Described("tfpipe_batch_rows", "histogram", (), "Rows of one run of a model."),
    Described(
        "tfpipe_batches_total",
        "counter",
        ("reason",),
        "Runs of a model by why they began: full, window (it was over) or free (a session was).",
    ),
    Described("tfpipe_queue_rows", "gauge", (), "Rows that wait for a run, of all models."),
    Described("tfpipe_queue_oldest_seconds", "gauge", (), "How long the oldest of them has waited."),
    Described("tfpipe_in_flight", "gauge", (), "Requests admitted and not yet answered."),
    Described("tfpipe_routed_total", "counter", (*_WHO, "arm"), "Requests by the arm of the split that they went to."),
    Described(
        "tfpipe_routed_latency_seconds",
        "histogram",
        (*_WHO, "outcome"),
        "Seconds of requests to which routing gave the version, by outcome: answered or failed; what a canary goes by.",
    ),
    Described("tfpipe_routing_revision", "gauge", ("model",), "Revision of the routing that requests go by."),
    Described(
        "tfpipe_shadow_total",
        "counter",
        (*_WHO, "result"),
        "Requests that a shadow was asked as well: same, different, failed, or dropped for want of room.",
    ),
    Described(
        "tfpipe_feedback_total",
        "counter",
        (*_WHO, "correct", "routed"),
        "Answers of which feedback says whether they were right, and whether routing chose the version.",
    ),
    Described("tfpipe_model_load_seconds", "gauge", _WHO, "Seconds until the model was ready."),
    Described(
        "tfpipe_golden_max_abs_diff",
        "gauge",
        _WHO,
        "Largest difference from training's answers to the golden samples, when they were last replayed.",
    ),
    Described(
        "tfpipe_drift_psi",
        "gauge",
        (*_WHO, "feature"),
        "Population stability index of the newest rows against training, by feature; of 100 rows or more.",
    ),
    Described(
        "tfpipe_drift_psi_limit",
        "gauge",
        (*_WHO, "feature"),
        "From which index on the feature has drifted: 0.25, or what chance does with so few rows.",
    ),
    Described(
        "tfpipe_drift_ks", "gauge", (*_WHO, "feature"), "Kolmogorov-Smirnov statistic of the same rows; of numbers."
    ),
    Described("tfpipe_drift_window_rows", "gauge", _WHO, "Newest rows that are compared with training."),
    Described(
        "tfpipe_odd_inputs_total",
        "counter",
        (*_WHO, "kind"),
        "Inputs out of the ordinary: empty_text, unknown_text, small_image or stretched_image.",
    ),
    Described("tfpipe_ready", "gauge", (), "Whether requests are taken: 1 or 0."),
    Described("tfpipe_cache_lookups_total", "counter", ("result",), "Inputs looked up in the cache of answers."),
    Described("tfpipe_cache_bytes", "gauge", (), "Bytes that the cache of answers takes."),
    Described("tfpipe_memory_bytes", "gauge", (), "Resident memory of the service, without its models' processes."),
    Described("tfpipe_model_memory_bytes", "gauge", _WHO, "Resident memory of a version's own processes."),
    Described("tfpipe_model_restarts_total", "counter", _WHO, "Times that a process of a version was started again."),
    Described("tfpipe_model_processes", "gauge", _WHO, "Processes of a version that answer."),
    Described("tfpipe_gpu_utilization_ratio", "gauge", ("gpu",), "Share of the last sample period with a kernel."),
    Described("tfpipe_gpu_memory_used_bytes", "gauge", ("gpu",), "Device memory in use, by all processes."),
    Described("tfpipe_gpu_memory_free_bytes", "gauge", ("gpu",), "Device memory that is free."),
    Described("tfpipe_gpu_power_watts", "gauge", ("gpu",), "Current draw."),
    Described("tfpipe_gpu_temperature_celsius", "gauge", ("gpu",), "Temperature of the chip."),
)
