# Two stages: the first builds the wheel and installs it into a virtual environment, the second has only that.
FROM python:3.13.9-slim-trixie AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/natscron \
    && /opt/natscron/bin/pip install --no-cache-dir ".[uvloop,ws]"

FROM python:3.13.9-slim-trixie
LABEL org.opencontainers.image.title="NATS Cron" \
      org.opencontainers.image.description="A distributed, highly available job scheduler on NATS" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --uid 10001 natscron
COPY --from=build /opt/natscron /opt/natscron
ENV PATH="/opt/natscron/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NATS_URL="nats://nats:4222"
USER 10001:10001
# The server needs no port of its own: it is reached through NATS.
STOPSIGNAL SIGTERM
# Healthy: somebody leads and the schedule is no more than 30 s behind.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["nats-cron", "health", "--max-lag", "30s"]
ENTRYPOINT ["nats-cron-server"]
