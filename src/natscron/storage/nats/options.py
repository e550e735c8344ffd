"""Names and limits of the NATS objects."""

import re
from typing import Final

import msgspec

from natscron.errors import ConfigError
from natscron.model import Ms

__all__ = ["NatsStorageOptions"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")
MAX_REPLICAS: Final = 5


class NatsStorageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Names left empty follow ``name``. Raises ConfigError at construction for a name that NATS cannot take."""

    name: str = "nats-cron"
    jobs_bucket: str = ""
    """Default: ``<name>-jobs``."""
    state_bucket: str = ""
    """Lease, journal, open rows and nodes. Default: ``<name>-state``."""
    log_stream: str = ""
    """Run records. Default: the name in capitals with ``_`` for ``-``, and ``_LOG``: ``NATS_CRON_LOG``."""
    log_prefix: str = ""
    """What the subjects of run records begin with. Default: ``<name>.log``."""
    shard: int = 0
    """Which lease. For now there is one."""
    replicas: int | None = None
    """Copies of each stream, 1 to 5. Default: 3 in a cluster that has room for them, else 1. Never lowered."""
    log_per_job: int = 100
    log_max_age_ms: Ms = 7 * 86_400_000
    api_subjects: tuple[str, ...] = ()
    """Subjects on which the service answers, wildcards allowed; a stream that captures one is warned about.
    Default: the API of a service whose prefix is ``name``."""
    provision_timeout_s: float = 20.0
    """How long each phase of provisioning may take."""

    def __post_init__(self) -> None:
        """Fill in the names that follow from others and check all."""
        derived = {
            "jobs_bucket": f"{self.name}-jobs",
            "state_bucket": f"{self.name}-state",
            "log_stream": self.name.upper().replace("-", "_") + "_LOG",
            "log_prefix": f"{self.name}.log",
        }
        for field, value in derived.items():
            if not getattr(self, field):
                msgspec.structs.force_setattr(self, field, value)
        for field in ("name", "jobs_bucket", "state_bucket", "log_stream"):
            value = getattr(self, field)
            if _NAME.fullmatch(value) is None:
                raise ConfigError(f"{field}: {value!r} is no name for NATS; use letters, digits, '-' and '_'")
        if _SUBJECT.fullmatch(self.log_prefix) is None:
            raise ConfigError(f"log_prefix: {self.log_prefix!r} is no subject without wildcards")
        if self.replicas is not None and not 1 <= self.replicas <= MAX_REPLICAS:
            raise ConfigError(f"replicas: {self.replicas} is not within 1 to {MAX_REPLICAS}")
        if self.log_per_job < 1 or self.log_max_age_ms < 1000:  # noqa: PLR2004 - a second
            raise ConfigError("log_per_job must be at least 1 and log_max_age_ms at least 1000")
        if not self.api_subjects:
            parts = ("jobs.>", "runs.>", "cluster.>", "calendars.>", "backfills.>", "status")
            msgspec.structs.force_setattr(self, "api_subjects", tuple(f"{self.name}.{part}" for part in parts))

    @property
    def jobs_stream(self) -> str:
        """The stream behind the jobs bucket."""
        return f"KV_{self.jobs_bucket}"

    @property
    def state_stream(self) -> str:
        """The stream behind the state bucket."""
        return f"KV_{self.state_bucket}"

    @property
    def jobs_prefix(self) -> str:
        """What the jobs' subjects begin with."""
        return f"$KV.{self.jobs_bucket}."

    @property
    def state_prefix(self) -> str:
        """What the state's subjects begin with."""
        return f"$KV.{self.state_bucket}."
