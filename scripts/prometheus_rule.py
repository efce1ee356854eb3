#!/usr/bin/env python3
"""Makes deploy/kubernetes/monitoring/rules.yaml of the rules in deploy/monitoring/prometheus/rules.

The Prometheus Operator takes rules as an object, a plain Prometheus as files, and kustomize cannot make the one of the
other. The files are what is edited; a test compares them with the object.

    python scripts/prometheus_rule.py      writes it anew
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "monitoring" / "prometheus" / "rules"
OBJECT = ROOT / "deploy" / "kubernetes" / "monitoring" / "rules.yaml"
# What watches Prometheus and Alertmanager comes with the operator's own stack, which names their jobs in its way.
FILES = ("recording.yml", "service.yml", "models.yml", "training.yml")
_HEAD = """\
# Made by scripts/prometheus_rule.py of deploy/monitoring/prometheus/rules: edit those, and make it anew.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tfpipe
spec:
  groups:
"""


def rule_object() -> str:
    """The object as YAML: the files' groups with all their comments, one after another.

    Raises:
        ValueError: A file that holds more than groups.
    """
    groups = []
    for name in FILES:
        _, found, text = (RULES / name).read_text().partition("\ngroups:\n")
        lines = text.splitlines(keepends=True)
        if not found or any(line.strip() and not line.startswith("  ") for line in lines):
            raise ValueError(f"{name}: expected comments and then nothing but `groups:`")
        groups += [f"  {line}" if line.strip() else line for line in lines]
    return _HEAD + "".join(groups)


if __name__ == "__main__":
    OBJECT.write_text(rule_object())
