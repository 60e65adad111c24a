FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/auditrelay
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The locks first: a change of the code alone does not fetch anything anew.
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --only-binary :all: --require-hashes -r requirements-build.txt \
 && /opt/auditrelay/bin/pip install --only-binary :all: --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && /opt/auditrelay/bin/pip install --no-deps /tmp/wheel/*.whl \
 && /opt/auditrelay/bin/pip uninstall --yes pip \
 && /opt/auditrelay/bin/python -m compileall -q /opt/auditrelay/lib

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/auditrelay auditrelay \
 && install -d -m 0700 -o auditrelay -g auditrelay /var/lib/auditrelay
COPY --from=build /opt/auditrelay /opt/auditrelay
ENV PATH="/opt/auditrelay/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    AUDITRELAY_STATE_DIR=/var/lib/auditrelay \
    AUDITRELAY_STATUS__LISTEN=0.0.0.0:9464
USER auditrelay
WORKDIR /var/lib/auditrelay
VOLUME /var/lib/auditrelay
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s CMD ["python", "-c", "\
import os, urllib.request; port = os.environ['AUDITRELAY_STATUS__LISTEN'].rpartition(':')[2]; \
urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=4)"]
ENTRYPOINT ["auditrelay"]
CMD ["run"]
