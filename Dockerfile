# Two stages: build tools are not in the final image. Nothing is compiled; every dependency is a wheel,
# pinned and hashed. docs/container.md says how to run it.
# BASE has Python 3.11 or newer with venv, and CA certificates; a release names it by its digest.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE} AS build
# Settings of pip's own that a builder behind a mirror needs; they stay in this stage. `make image` hands
# them on as a secret, because an address may have a password in it.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_TRUSTED_HOST=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/run/pip.conf
WORKDIR /src
# The locks first: a change of the code alone does not download dependencies again. What is copied into
# the image never had a pip or setuptools. Bytecode is compiled here, because the file system will be
# read-only, and is not compared with its source: a copy may change the time of a file.
COPY requirements.txt requirements-build.txt ./
RUN --mount=type=secret,id=ca,target=/run/ca.crt --mount=type=secret,id=pip,target=/run/pip.conf \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi \
 && python3 -m venv --without-pip /opt/auditrelay \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install --only-binary :all: --require-hashes -r requirements-build.txt \
 && /opt/build/bin/pip --python /opt/auditrelay/bin/python install --no-compile \
    --only-binary :all: --require-hashes -r requirements.txt \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/auditrelay/lib
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# The wheel is installed by the name of its file, without an index.
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && /opt/build/bin/pip --python /opt/auditrelay/bin/python install --no-compile --no-deps --no-index \
    /tmp/wheel/auditrelay-*.whl \
 && python3 -m compileall -q --invalidation-mode unchecked-hash \
    /opt/auditrelay/lib/python*/site-packages/auditrelay

FROM ${BASE}
LABEL org.opencontainers.image.title="auditrelay" \
      org.opencontainers.image.description="Carries SaaS audit logs into SIEMs: every event, once, soon, with proof that nothing is missing." \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Without the programs for it, which a small base does not have.
RUN echo 'auditrelay:x:10001:' >>/etc/group \
 && echo 'auditrelay:x:10001:10001::/var/lib/auditrelay:/usr/sbin/nologin' >>/etc/passwd \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/auditrelay
COPY --from=build /opt/auditrelay /opt/auditrelay
ENV PATH="/opt/auditrelay/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AUDITRELAY_STATE_DIR=/var/lib/auditrelay \
    AUDITRELAY_STATUS__LISTEN=0.0.0.0:9464
# Numeric, so that Kubernetes can verify that it is not root.
USER 10001:10001
WORKDIR /var/lib/auditrelay
VOLUME /var/lib/auditrelay
EXPOSE 9464
# It runs as process 1, handles signals itself, and has no children: no init process is needed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "auditrelay.healthcheck"]
ENTRYPOINT ["auditrelay"]
CMD ["run"]
