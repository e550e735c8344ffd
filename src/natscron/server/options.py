"""The options of an embedded or stand-alone server."""

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from natscron.config import Settings, load_settings
from natscron.errors import ConfigError

__all__ = ["ServerOptions"]

_KEYS: Final = {
    "nats_url": "nats.url",
    "user": "nats.user",
    "password": "nats.password",
    "token": "nats.token",
    "creds": "nats.creds",
    "nkey": "nats.nkey",
    "tls_ca": "nats.tls_ca",
    "tls_cert": "nats.tls_cert",
    "tls_key": "nats.tls_key",
    "replicas": "nats.replicas",
    "name": "service.name",
    "instance_id": "service.instance_id",
    "prefix": "service.prefix",
    "jobs_bucket": "service.jobs_bucket",
    "state_bucket": "service.state_bucket",
    "log_stream": "service.log_stream",
    "shutdown_timeout": "service.shutdown_timeout",
    "micro": "service.micro",
    "leader_election": "service.leader_election",
    "max_jobs": "jobs.max_jobs",
    "max_payload": "jobs.max_payload",
    "min_interval": "jobs.min_interval",
    "allow": "jobs.allow",
    "deny": "jobs.deny",
    "lease": "lease.duration",
    "max_skew": "lease.max_skew",
    "grace": "lease.grace",
    "history": "history.enabled",
}


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a :class:`~natscron.server.Server` is made from. Everything left None has the default of the settings.

    Durations are Go text (``"2s"``) or seconds. Wrong values raise ConfigError, here and not later.

    ``connection`` is a connected nats-py client to share; it is never closed, and a stopped server leaves nothing on
    it. The leader opens a connection of its own beside it, to the same servers and with the same credentials.
    ``connect_timeout_s`` bounds how long ``start`` waits for NATS (default None: for ever). ``settings`` takes all
    settings at once, instead of the single ones.
    """

    connection: Any = None
    connect_timeout_s: float | None = None
    settings: Settings | None = None

    nats_url: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    replicas: int | None = None
    name: str | None = None
    instance_id: str | None = None
    prefix: str | None = None
    jobs_bucket: str | None = None
    state_bucket: str | None = None
    log_stream: str | None = None
    shutdown_timeout: str | float | None = None
    micro: bool | None = None
    leader_election: bool | None = None
    max_jobs: int | None = None
    max_payload: int | None = None
    min_interval: str | float | None = None
    allow: tuple[str, ...] | list[str] | None = None
    deny: tuple[str, ...] | list[str] | None = None
    lease: str | float | None = None
    max_skew: str | float | None = None
    grace: str | float | None = None
    history: bool | None = None

    def __post_init__(self) -> None:
        """Check everything and put the settings together."""
        given = {key: getattr(self, name) for name, key in _KEYS.items() if getattr(self, name) is not None}
        if self.settings is None:
            sources = {key: f"the option {name}" for name, key in _KEYS.items()}
            msgspec.structs.force_setattr(self, "settings", load_settings(overrides=given, sources=sources))
        elif given:
            names = ", ".join(sorted(name for name, key in _KEYS.items() if key in given))
            raise ConfigError(f"options settings and {names}: give either all settings at once or single options")
        if self.connect_timeout_s is not None and not self.connect_timeout_s > 0:
            raise ConfigError(
                f"option connect_timeout_s: {self.connect_timeout_s!r} is wrong; give seconds above 0, or None to wait"
            )
        if self.connection is not None and not hasattr(self.connection, "publish"):
            raise ConfigError(
                f"option connection: {type(self.connection).__name__} is no NATS client; give one of nats.connect()"
            )

    @property
    def effective(self) -> Settings:
        """All settings, those that were not given at their defaults."""
        if self.settings is None:
            raise ConfigError("options: not complete; make them anew")  # only a half-made copy is
        return self.settings

    def __repr__(self) -> str:
        """The settings, secrets hidden."""
        return f"ServerOptions(settings={self.settings!r}, connection={'shared' if self.connection else None})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, connection: Any = None) -> "ServerOptions":  # noqa: ANN401 - see the class
        """From the environment (default: the process's) and the file that ``NATSCRON_CONFIG`` names, if any."""
        return cls(settings=load_settings(environ=os.environ if environ is None else environ), connection=connection)

    @property
    def url_given(self) -> bool:
        """Whether the server's URL was given, rather than left to its default."""
        return self.nats_url is not None
