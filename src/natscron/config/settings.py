"""The settings as records: their defaults, meanings and rules.

Each field's annotation carries its rule: bounds for the check, a description for the error, and in ``extra`` what kind
of value it is (a duration, a file, a list of subjects).
"""

import re
import socket
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

__all__ = [
    "DEFAULT_URL",
    "HIDDEN",
    "SECRETS",
    "HistorySettings",
    "JobsSettings",
    "LeaseSettings",
    "LogSettings",
    "NatsSettings",
    "ServiceSettings",
    "Settings",
    "redact_url",
]

DEFAULT_URL: Final = "nats://localhost:4222"
SECRETS: Final = frozenset({"nats.password", "nats.token"})
"""Keys whose values are never shown."""
HIDDEN: Final = "***"
_GRACE_OVER_LEASE_MS: Final = 10_000

_URL_RULE: Final = "nats://, tls://, ws:// or wss:// URLs with a host, separated by commas"
_PATTERN_RULE: Final = "a list of subjects, in which * stands for one token and a last > for the rest"
_Path: TypeAlias = Annotated[str, Meta(min_length=1, description="the path of a readable file", extra={"file": True})]
_Text: TypeAlias = Annotated[str, Meta(min_length=1, description="text that is not empty")]
_Bool: TypeAlias = Annotated[bool, Meta(description="true or false")]
_Name: TypeAlias = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z", description="1 to 64 of the characters A-Z a-z 0-9 _ -")
]
_Prefix: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z",
        max_length=128,
        description="subject tokens of A-Z a-z 0-9 _ - joined by dots, at most 128 characters",
    ),
]
_Subjects: TypeAlias = Annotated[tuple[str, ...], Meta(description=_PATTERN_RULE, extra={"subjects": True})]
_Level: TypeAlias = Annotated[
    Literal["debug", "info", "warn", "error"], Meta(description="one of debug, info, warn, error")
]


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where NATS is and who we are to it. At most one of user, token, creds and nkey."""

    url: Annotated[str, Meta(min_length=1, description=_URL_RULE)] = DEFAULT_URL
    """One or several server URLs, separated by commas."""
    user: _Text | None = None
    password: _Text | None = None
    token: _Text | None = None
    creds: _Path | None = None
    """Path of a credentials file (JWT and seed)."""
    nkey: _Path | None = None
    """Path of a file that holds an nkey seed."""
    tls_ca: _Path | None = None
    """Path of a PEM file with the authorities to trust, instead of the system's."""
    tls_cert: _Path | None = None
    tls_key: _Path | None = None
    name: _Text | None = None
    """The connection's name as NATS shows it. Default: the service's name and instance id."""
    replicas: Annotated[int, Meta(ge=1, le=5, description="a whole number from 1 to 5")] | None = None
    """Copies of each stream. Default: 3 in a cluster of three or more, else 1. Never lowered on existing streams."""

    def __repr__(self) -> str:
        """All set fields, secrets hidden."""
        return _repr(self, "nats")


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Names and conduct of the service. The four names left empty follow ``name``."""

    name: _Name = "nats-cron"
    instance_id: _Text = ""
    """Names this process. Default: the host's name."""
    prefix: _Prefix = ""
    """What the API's subjects begin with. Default: ``name``."""
    jobs_bucket: _Name = ""
    """Default: ``<name>-jobs``."""
    state_bucket: _Name = ""
    """Where lease, journal and open runs live. Default: ``<name>-state``."""
    log_stream: _Name = ""
    """Where run records live. Default: ``<NAME>_LOG``, ``NATS_CRON_LOG`` for ``nats-cron``."""
    shutdown_timeout_ms: Annotated[
        int, Meta(ge=0, le=600_000, description="a duration from 0s to 10m, such as 30s", extra={"duration": True})
    ] = 30_000
    """How long a clean stop may finish what is in flight. Default 30 s."""
    micro: _Bool = True
    """Whether this instance answers the API."""
    leader_election: _Bool = True
    """Whether this instance may lead. Off: it answers the API and fires nothing."""

    def __post_init__(self) -> None:
        """Fill in the names that follow from others."""
        derived = {
            "instance_id": socket.gethostname() if not self.instance_id else "",
            "prefix": self.name,
            "jobs_bucket": f"{self.name}-jobs",
            "state_bucket": f"{self.name}-state",
            "log_stream": f"{self.name.upper().replace('-', '_')}_LOG",
        }
        for key, value in derived.items():
            if not getattr(self, key):
                msgspec.structs.force_setattr(self, key, value or "nats-cron")


class JobsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may be. Over a limit: refused with the limit named."""

    max_jobs: Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")] = 200_000
    max_payload: Annotated[int, Meta(ge=0, le=67_108_864, description="bytes, from 0 to 67108864")] = 524_288
    """Bytes of the message's body. Default 512 KiB."""
    max_headers: Annotated[int, Meta(ge=0, le=1_000, description="a whole number from 0 to 1000")] = 64
    max_labels: Annotated[int, Meta(ge=0, le=1_000, description="a whole number from 0 to 1000")] = 64
    min_interval_ms: Annotated[
        int, Meta(ge=1, le=86_400_000, description="a duration from 1ms to 24h, such as 10ms", extra={"duration": True})
    ] = 10
    """The shortest ``every``. Default 10 ms."""
    allow: _Subjects = ()
    """Subjects that jobs may publish to. Default (empty): all but the reserved."""
    deny: _Subjects = ()
    """Subjects that jobs may not publish to, even if allowed."""
    keep_done_ms: Annotated[
        int,
        Meta(ge=0, le=31_622_400_000, description="a duration from 0s to 8784h, such as 24h", extra={"duration": True}),
    ] = 86_400_000
    """How long a finished once job is kept. Default 24 h."""


class LeaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How leadership is held. The same on all instances."""

    duration_ms: Annotated[
        int, Meta(ge=500, le=60_000, description="a duration from 500ms to 60s, such as 2s", extra={"duration": True})
    ] = 2_000
    """How long a silent leader keeps the lease: the takeover time. Default 2 s; longer for slow links."""
    max_skew_ms: Annotated[
        int, Meta(ge=1_000, le=3_600_000, description="a duration from 1s to 1h, such as 10s", extra={"duration": True})
    ] = 10_000
    """A clock this far from the store's may not lead. Default 10 s."""
    grace_ms: Annotated[
        int, Meta(ge=0, le=86_400_000, description="a duration from 0s to 24h, such as 10s", extra={"duration": True})
    ] = 10_000
    """Slots younger than this always run. Default 10 s; :attr:`effective_grace_ms` is what counts."""

    @property
    def effective_grace_ms(self) -> int:
        """The grace, never less than the lease and ten seconds: a takeover must not turn a slot into an old one."""
        return max(self.grace_ms, self.duration_ms + _GRACE_OVER_LEASE_MS)


class HistorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which run records are kept."""

    enabled: _Bool = True
    per_job: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")] = 100
    max_age_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=31_622_400_000,
            description="a duration from 1s to 8784h, such as 168h",
            extra={"duration": True},
        ),
    ] = 7 * 86_400_000
    """Default 168 h, a week."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says about itself."""

    level: _Level = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured. Its text form hides secrets."""

    nats: NatsSettings = msgspec.field(default_factory=NatsSettings)
    service: ServiceSettings = msgspec.field(default_factory=ServiceSettings)
    jobs: JobsSettings = msgspec.field(default_factory=JobsSettings)
    lease: LeaseSettings = msgspec.field(default_factory=LeaseSettings)
    history: HistorySettings = msgspec.field(default_factory=HistorySettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)


def redact_url(url: str) -> str:
    """The URL or comma-separated URLs with user, password and token hidden."""
    # Split only before a scheme: a password may hold a comma, and hiding a host too much beats showing half a secret.
    urls = re.split(r",\s*(?=[a-z]+://)", url.strip())
    return ",".join(re.sub(r"^([a-z]+://)?.*@", rf"\g<1>{HIDDEN}@", one, flags=re.DOTALL) for one in urls)


def _repr(settings: NatsSettings, table: str) -> str:
    parts = []
    for field in settings.__struct_fields__:
        value = getattr(settings, field)
        if value is not None:
            hidden = HIDDEN if f"{table}.{field}" in SECRETS else value
            parts.append(f"{field}={redact_url(value) if field == 'url' else hidden!r}")
    return f"{type(settings).__name__}({', '.join(parts)})"
