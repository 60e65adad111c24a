#!/usr/bin/env bash
# The image, with docker, podman or buildah, whichever works here:
#
#   image.sh build         builds IMAGE from the Dockerfile on BASE (the one named there if it is empty)
#   image.sh base          makes BASE from Debian packages, where no registry of images can be reached
#   image.sh archive FILE  builds IMAGE on a base that it makes if it must, and writes it into FILE
#                          as `docker save` does: what the tests of the image read
#
# The exit status is 69 if it cannot be done here: a program is missing, or packages cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

IMAGE=${IMAGE:-auditrelay}
BASE=${BASE:-}
DEBIAN=localhost/debian-python:bookworm # what `base` makes if BASE is empty
# It is in the settings and in the authorities that `archive` hands on to the build, and then in no
# file of the image, as its tests see.
MARK=a-mark-of-the-builder.invalid
NAMED=$(sed -n 's/^ARG BASE=//p' Dockerfile)
export DOCKER_BUILDKIT=1 # secrets need it
# The RUN lines are our own, and need no more than a chroot; other isolation needs rights on cgroups.
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}

unavailable() {
  echo "$1" >&2
  exit 69
}

# Whether buildah can be used: its storage works, and as root it may make a mount namespace.
buildah_works() {
  local container
  container=$(buildah from scratch) && buildah rm "$container" \
    && { [ "$(id -u)" != 0 ] || unshare --mount true; }
} >/dev/null 2>&1

# A docker without its daemon is none.
if timeout 20 docker info >/dev/null 2>&1; then
  ENGINE=docker
elif timeout 20 podman info >/dev/null 2>&1; then
  ENGINE=podman
elif buildah_works; then
  ENGINE=buildah
elif STORAGE_DRIVER=vfs buildah_works; then # where an overlay on an overlay is refused
  ENGINE=buildah
  export STORAGE_DRIVER=vfs
else
  unavailable "An image needs docker, podman or buildah, and none of them works here (Debian: apt install buildah)."
fi

SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

# What pip is configured with, a line each: global.index-url='https://...'. A system's Python may have
# no pip. `pip config get` would not see the file that PIP_CONFIG_FILE names.
configured=$(
  for python in "${VENV:-.venv}/bin/python" python3; do
    "$python" -m pip config list 2>/dev/null && break
  done || true
)

# A setting of pip's, from the environment or from its files.
pip_setting() {
  local variable=PIP_${1//-/_} value
  variable=${variable^^}
  value=${!variable:-$(sed -n "s/^global\.$1='\(.*\)'\$/\1/p" <<<"$configured")}
  echo "${value//\\n/ }" # a list, as pip shows it
}

build() {
  local ca name value
  # The builder's certificate authorities, if any are named, and its settings of pip. They are secrets
  # of the build: neither a layer nor the history of the image has them.
  ca=$(pip_setting cert)
  ca=${ca:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-}}}
  {
    cat ${ca:+"$ca"} </dev/null
    echo "${CA_MARK:-}"
  } >"$SCRATCH/ca.crt"
  {
    echo '[global]'
    for name in index-url extra-index-url trusted-host proxy timeout default-timeout retries; do
      value=$(pip_setting $name)
      if [ -n "$value" ]; then echo "$name = $value"; fi
    done
  } >"$SCRATCH/pip.conf"
  local -a arguments=(
    --secret "id=ca,src=$SCRATCH/ca.crt" --secret "id=pip,src=$SCRATCH/pip.conf"
    ${BASE:+--build-arg "BASE=$BASE"} --tag "$IMAGE"
  )
  # Of the two formats only Docker's has a health check.
  case $ENGINE in
    docker) docker build "${arguments[@]}" . ;;
    podman) podman build --format docker --layers "${arguments[@]}" . ;;
    buildah) buildah build --format docker --layers "${arguments[@]}" . ;;
  esac
}

base() {
  BASE=${BASE:-$DEBIAN}
  command -v mmdebstrap >/dev/null \
    || unavailable "A base of Debian packages needs mmdebstrap (Debian: apt install mmdebstrap)."
  local container
  # Without what only people read, devices, and the names of this machine and of its resolver.
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='for each in hostname resolv.conf; do : >"$1/etc/$each"; done' \
    --skip=output/dev bookworm "$SCRATCH/base.tar" >&2 \
    || unavailable "mmdebstrap could not make a base; can Debian's packages be reached?"
  case $ENGINE in
    buildah)
      container=$(buildah from scratch)
      buildah add --quiet "$container" "$SCRATCH/base.tar" / >&2
      buildah commit --quiet --rm "$container" "$BASE" >&2
      ;;
    *) "$ENGINE" import "$SCRATCH/base.tar" "$BASE" >&2 ;;
  esac
  echo "$BASE is made; make image BASE=$BASE builds on it." >&2
}

here() {
  case $ENGINE in
    buildah) buildah inspect --type image "$1" >/dev/null 2>&1 ;;
    *) "$ENGINE" image inspect "$1" >/dev/null 2>&1 ;;
  esac
}

# Lets BASE be one that is here or in a registry, or makes it.
find_base() {
  local each
  for each in ${BASE:-"$NAMED" "$DEBIAN"}; do
    if here "$each"; then
      BASE=$each
      return
    fi
  done
  if timeout 90 "$ENGINE" pull --quiet "${BASE:-$NAMED}" >/dev/null 2>&1; then
    BASE=${BASE:-$NAMED}
  else
    echo "There is no ${BASE:-$NAMED} here and none can be had: a base of Debian packages is made." >&2
    base
  fi
}

save() {
  rm -f "$1"
  case $ENGINE in
    docker) docker save --output "$1" "$IMAGE" ;;
    podman) podman save --quiet --format docker-archive --output "$1" "$IMAGE" ;;
    buildah) buildah push --quiet "$IMAGE" "docker-archive:$1:$IMAGE" ;;
  esac
}

archive() {
  find_base
  CA_MARK="# $MARK" PIP_TRUSTED_HOST="$(pip_setting trusted-host) $MARK" build
  mkdir -p "$(dirname "$1")"
  save "$1"
}

case ${1:-} in
  build) build ;;
  base) base ;;
  archive) archive "${2:?the file}" ;;
  *)
    sed -n 's/^# \{0,1\}//p' "$0" | sed '/^The exit/q' >&2
    exit 2
    ;;
esac
