"""What a report says of each model: its features, what came of its requests, and a sentence. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tfpipe.core.drift import PSI_DRIFTED, psi_limit, verdict
from tfpipe.core.errors import ConfigError
from tfpipe.monitor.asking import Answered, Samples

_ORDER = ("drifted", "moved", "too few rows", "steady")


def find(answered: Answered, *, url: str, model: str | None = None, max_psi: float | None = None) -> dict[str, Any]:
    """Everything that the page says.

    Args:
        answered: By the service.
        url: Of it.
        model: The only one that is looked at; None: all.
        max_psi: Above which index a feature has drifted; None: as is the habit.

    Raises:
        ConfigError: There is no such model, or none that can be compared.
    """
    models = [one for one in answered.drift["models"] if model in (None, one["model"])]
    if not models:
        known = ", ".join(sorted({one["model"] for one in answered.drift["models"]}))
        raise ConfigError(
            f"--model: expected one that the service compares ({known or 'it compares none'}), received {model!r}."
        )
    drifted = PSI_DRIFTED if max_psi is None else max_psi
    return {
        "url": url,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "max_psi": drifted,
        "models": [_model(one, answered.metrics, drifted) for one in models],
    }


def _model(one: Mapping[str, Any], metrics: Samples, drifted: float) -> dict[str, Any]:
    features = [_feature(feature, drifted) for feature in one["features"]]
    features.sort(key=lambda feature: (_ORDER.index(feature["verdict"]), -feature["psi"]))
    who = {"model": one["model"], "version": one["version"]}
    return {
        "title": f"{one['model']} {one['version']}".strip(),
        "inputs_from": one["inputs_from"],
        "predictions_from": one["predictions_from"],
        "said": _said(features),
        "features": features,
        "odd_inputs": one["odd_inputs"],
        "requests": _counts(metrics, "tfpipe_requests_total", who, ("protocol", "code")),
        "errors": _counts(metrics, "tfpipe_errors_total", who, ("type",)),
        "throughput_rps": sum(_values(metrics, "tfpipe_throughput_rps", who)),
        "latency_ms": {
            f"p{100 * float(labels['quantile']):g}": 1000 * value
            for labels, value in metrics.get("tfpipe_latency_quantile_seconds", ())
            if who.items() <= labels.items()
        },
    }


def _feature(feature: Mapping[str, Any], drifted: float) -> dict[str, Any]:
    expected, actual = sum(feature["expected"]), sum(feature["actual"])
    limit = psi_limit(len(feature["bins"]), expected, actual, drifted=drifted) if actual else drifted
    return {**feature, "psi_limit": limit, "verdict": verdict(feature["psi"], limit, feature["rows"])}


def _said(features: Sequence[Mapping[str, Any]]) -> str:
    if not features:
        return "nothing to compare with: the bundle has no statistics of training data."
    named = {said: [one["name"] for one in features if one["verdict"] == said] for said in _ORDER}
    if named["drifted"]:
        return f"{', '.join(named['drifted'])} drifted."
    if len(named["too few rows"]) == len(features):
        return f"too few rows to compare: {max(one['rows'] for one in features)}."
    return f"{', '.join(named['moved'])} moved a little." if named["moved"] else "steady."


def _counts(metrics: Samples, name: str, who: Mapping[str, str], keys: Sequence[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for labels, value in metrics.get(name, ()):
        if who.items() <= labels.items():
            counts[" ".join(labels[key] for key in keys)] += int(value)
    return dict(counts.most_common())


def _values(metrics: Samples, name: str, who: Mapping[str, str]) -> list[float]:
    return [value for labels, value in metrics.get(name, ()) if who.items() <= labels.items()]
