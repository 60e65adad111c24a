// Package crds names the types of which the schemas of ServiceMonitor and PrometheusRule are generated.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
