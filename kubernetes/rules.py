"""
Print kubernetes/monitoring/prometheusrule.yaml: monitoring/alerts.yaml for the Prometheus operator.

The groups of a file of rules are the `spec` of a PrometheusRule: it is the same text, indented.
"""

import sys
from pathlib import Path

ALERTS = Path(__file__).parents[1] / "monitoring" / "alerts.yaml"
HEAD = """\
# Generated from monitoring/alerts.yaml by `make generate`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: auditrelay
  labels:
    app.kubernetes.io/name: auditrelay
spec:
"""


def resource() -> str:
    """Return the alerts as a resource of the operator."""
    lines = ALERTS.read_text("utf-8").splitlines(keepends=True)
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in lines)


if __name__ == "__main__":
    sys.stdout.write(resource())
