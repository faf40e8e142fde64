# One image for every role: scheduler, worker CLASS, flower and the client commands. `docker run celeriac --help`.
#
# The base is pinned by tag, not by digest, since a digest would have to follow every security rebuild of the tag;
# whoever wants bit-for-bit rebuilds passes --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/celeriac
WORKDIR /src
# Dependencies first: they change less often than the code, so their layer is kept.
COPY config/constraints.txt /tmp/constraints.txt
RUN /opt/celeriac/bin/pip install -c /tmp/constraints.txt \
    'celery[redis]' click flower kombu prometheus-client pydantic pydantic-settings PyYAML 'redis[hiredis]' rich
COPY pyproject.toml README.md LICENSE ./
COPY config ./config
COPY scheduler ./scheduler
RUN /opt/celeriac/bin/pip install -c /tmp/constraints.txt '.[flower,metrics]'

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="celeriac" \
      org.opencontainers.image.description="Durable dependency graphs for the Celery you already run" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/celeriac /opt/celeriac
# The reference application: its executors and its queue classes. Replace both by mounting your own at /app.
WORKDIR /app
COPY tasks ./tasks
COPY config ./config
ENV PATH=/opt/celeriac/bin:$PATH \
    PYTHONPATH=/app \
    CELERIAC_QUEUES_FILE=/app/config/queues.toml \
    CELERIAC_CELERY_FILE=/app/config/celery.toml \
    CELERIAC_CAPABILITIES_FILE=/app/config/capabilities.toml \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Where compose mounts the archive of ended runs; a new volume takes over the owner.
RUN install -d -o 10001 -g 10001 /var/lib/celeriac/archive
# A number, so that orchestrators can check that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
# No HEALTHCHECK: every role has another one, see docker-compose.yml.
ENTRYPOINT ["celeriac"]
CMD ["--help"]
