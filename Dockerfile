# Pulse on Trio in a container: docs/deployment.md, "In a container".
#
#   docker build -t pulse-trio .
#   docker run -p 8000:8000 -v pulse-data:/var/lib/pulse-trio pulse-trio
#
# BASE is any image with glibc and Python 3.11 or newer with venv. Pin it by digest where builds must be repeatable.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
# For builds without a package index: --build-arg PIP_OPTIONS="--no-index --find-links /wheels", with wheels mounted.
ARG PIP_OPTIONS=""
WORKDIR /source
# The packages first: this layer changes only with the lock file. pip itself stays outside of what is copied.
COPY requirements.lock ./
RUN python3 -m venv /tmp/pip && python3 -m venv --without-pip /opt/pulse-trio \
    && /tmp/pip/bin/pip --python /opt/pulse-trio/bin/python install --no-cache-dir --no-compile --require-hashes \
    ${PIP_OPTIONS} -r requirements.lock
COPY pyproject.toml hypercorn.toml LICENSE NOTICE ./
COPY docs ./docs
COPY deploy ./deploy
COPY migrations ./migrations
COPY pulse_trio ./pulse_trio
# The build backend is in the lock file, so nothing else is fetched; the service does without it.
RUN /tmp/pip/bin/pip --python /opt/pulse-trio/bin/python install --no-cache-dir --no-deps --no-build-isolation . \
    && /tmp/pip/bin/pip --python /opt/pulse-trio/bin/python uninstall --yes editables hatchling trove-classifiers \
    && /opt/pulse-trio/bin/python -m compileall -q /opt/pulse-trio

FROM ${BASE}
COPY --from=build /opt/pulse-trio /opt/pulse-trio
# A fixed number, so that a volume keeps its owner from image to image.
RUN echo 'pulse:x:10001:10001::/var/lib/pulse-trio:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'pulse:x:10001:' >>/etc/group \
    && mkdir -p /var/lib/pulse-trio && chown 10001:10001 /var/lib/pulse-trio && chmod 700 /var/lib/pulse-trio
ENV PATH=/opt/pulse-trio/bin:$PATH \
    PULSE_DATA_DIR=/var/lib/pulse-trio \
    PULSE_LOG_FORMAT=json \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/pulse-trio
VOLUME /var/lib/pulse-trio
EXPOSE 8000
# A stop closes every WebSocket with 1012 and stores what is pending: SIGTERM, and up to half a minute.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["pulse-trio"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
