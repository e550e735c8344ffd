"""What can be set about a SQL storage."""

from typing import Final

import msgspec

from natscron.errors import ConfigError
from natscron.model import Ms

__all__ = ["SQLOptions"]

_DAY_MS: Final[Ms] = 86_400_000
_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "pool_size": (2, 200),
    "busy_timeout_ms": (0, 20_000),
    "runs_per_job": (1, 1_000_000),
    "runs_max_age_ms": (60_000, 100 * 366 * _DAY_MS),
}


class SQLOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Raises ConfigError at construction for what is out of bounds."""

    synchronous: str = "normal"
    """SQLite: ``normal`` (a loss of power may take the last writes, a crash takes none) or ``full``."""
    busy_timeout_ms: Ms = 3_000
    """SQLite: how long a write waits for those of other processes. Less than a third of the leader's lease."""
    pool_size: int = 8
    """PostgreSQL, MySQL: the most connections of the pool, besides one that listens and one of a leader."""
    poll_s: float | None = None
    """How often it is asked what other processes wrote, where nothing tells. Default: SQLite 0.1, else 0.25.

    While nothing happens SQLite is asked at half that rate, MySQL at a quarter: what another process asks for begins
    within 0.2 s and a second by default. What a schedule says is due waits for no poll.
    """
    runs_per_job: int = 1_000
    """How many records are kept of each job."""
    runs_max_age_ms: Ms = 30 * _DAY_MS
    """How long records are kept."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.synchronous not in {"normal", "full"}:
            raise ConfigError(f"synchronous: {self.synchronous!r:.40} is neither 'normal' nor 'full'")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: {value} is not within {low} to {high}")
        if self.poll_s is not None and not 0.005 <= self.poll_s <= 60:  # noqa: PLR2004 - the text says it
            raise ConfigError(f"poll_s: {self.poll_s} is not within 0.005 to 60")
