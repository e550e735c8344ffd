"""Names and limits of the library's NATS objects."""

from typing import Final

import msgspec

from natscron.errors import ConfigError
from natscron.model import Ms
from natscron.storage.nats.options import _NAME, _SUBJECT, NatsStorageOptions

__all__ = ["LibraryOptions"]

_DERIVED: Final = {
    "jobs_bucket": "JOBS",
    "state_bucket": "STATE",
    "runs_bucket": "EXECUTIONS",
    "log_stream": "LOG",
    "dead_stream": "DEAD",
    "timer_stream": "",
}


class LibraryOptions(NatsStorageOptions, frozen=True, kw_only=True):
    """Names left empty follow ``prefix``: ``SCHEDULER_JOBS``, ``SCHEDULER_STATE`` and so on.

    The subjects of the log and the dead do not begin with ``scheduler.``: the stream of the Go library holds all of
    those. Where that library's stream is there, timers need another ``timer_stream`` and ``timer_prefix``.
    Raises ConfigError at construction for a name that NATS cannot take.
    """

    name: str = "scheduler"
    prefix: str = "SCHEDULER"
    runs_bucket: str = ""
    """Runs that are not over, and workers. Default: ``<prefix>_EXECUTIONS``."""
    dead_stream: str = ""
    """Runs that failed for good, with all that a further try needs. Default: ``<prefix>_DEAD``."""
    dead_prefix: str = ""
    """What its subjects begin with. Default: the stream's name in lower case with ``-`` for ``_``."""
    dead_max: int = 100_000
    """How many of these are kept, the newest; none longer than ``log_max_age_ms``."""
    log_per_job: int = 1_000
    timer_stream: str = ""
    """Timers that nats-server holds, and what they fired; made when there is one. Default: ``prefix``."""
    timer_prefix: str = ""
    """What its subjects begin with. Default: the stream's name in lower case with ``-`` for ``_``."""
    over_ttl_ms: Ms = 120_000
    """How long a run that is over lies among the runs, so that everybody learns of it and repeats are recognised."""

    def __post_init__(self) -> None:
        """Fill in the names that follow from others and check all."""
        force = msgspec.structs.force_setattr
        for field, tail in _DERIVED.items():
            if not getattr(self, field):
                force(self, field, f"{self.prefix}_{tail}" if tail else self.prefix)
        for field in ("log", "dead", "timer"):
            if not getattr(self, f"{field}_prefix"):
                force(self, f"{field}_prefix", getattr(self, f"{field}_stream").lower().replace("_", "-"))
        for field in ("prefix", "runs_bucket", "dead_stream", "timer_stream"):
            if _NAME.fullmatch(getattr(self, field)) is None:
                text = "is no name for NATS; use letters, digits, '-' and '_'"
                raise ConfigError(f"{field}: {getattr(self, field)!r} {text}")
        for field in ("dead_prefix", "timer_prefix"):
            if _SUBJECT.fullmatch(getattr(self, field)) is None:
                raise ConfigError(f"{field}: {getattr(self, field)!r} is no subject without wildcards")
        if self.dead_max < 1 or self.over_ttl_ms < 1_000:  # noqa: PLR2004 - what the server takes
            raise ConfigError("dead_max must be at least 1 and over_ttl_ms at least 1000")
        asked = self.api_subjects
        super().__post_init__()
        # The library answers on no subjects.
        force(self, "api_subjects", asked)

    @property
    def runs_stream(self) -> str:
        """The stream behind the bucket of runs."""
        return f"KV_{self.runs_bucket}"

    @property
    def runs_prefix(self) -> str:
        """What the subjects of runs begin with."""
        return f"$KV.{self.runs_bucket}."

    @property
    def worker_prefix(self) -> str:
        """What the subjects of workers' announcements begin with; no job's key begins so."""
        return f"$KV.{self.runs_bucket}._worker."
