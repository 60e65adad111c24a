#!/usr/bin/env bash
# What the tests of kubernetes/ render and check with, into build/kubernetes: kustomize, kubeconform, the
# Pod Security Standards (restricted) and the schemas of the Prometheus operator, generated from its types.
# All from Go modules, by the versions and sums of go.mod and go.sum.
#
# The exit status is 69 if they cannot be had here: there is no Go, or its modules cannot be reached.
set -euo pipefail
cd "$(dirname "$0")"
TOOLS=$(realpath --canonicalize-missing "${1:-../../build/kubernetes}")

unavailable() {
  echo "$1" >&2
  exit 69
}

command -v go >/dev/null || unavailable "The manifests are checked by programs in Go, and there is no go on the PATH."
mkdir -p "$TOOLS"
# No stamp of the repository, which git may refuse to another user; no newer Go instead of this one.
export GOBIN=$TOOLS GOFLAGS="-mod=readonly -buildvcs=false" GOTOOLCHAIN=local
go mod download || unavailable "The Go modules of the checks of kubernetes/ cannot be had here."
go install tool ./restricted
"$TOOLS/controller-gen" crd:maxDescLen=0 output:crd:dir="$TOOLS/crds" \
  paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1
