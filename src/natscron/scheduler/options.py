"""What can be set about a scheduler."""

import os
import socket
from typing import Any, Final

import msgspec

from natscron.errors import ConfigError, ValidationError
from natscron.model import Ms, Timer
from natscron.scheduler.values import Duration, millis

__all__ = ["SchedulerOptions"]

_CONCURRENCY_MAX: Final = 10_000


class SchedulerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Made by :meth:`make`, which checks. ``needs_handler`` False: a run without one fails, with that reason.

    ``calm``: how many times rarer than usual everything looks around while nothing happens; 1, but on virtual time.
    """

    name: str
    given_instance: str | None
    instance: str
    worker: bool
    plan: bool
    concurrency: int
    lease_ms: Ms | None
    worker_lease_ms: Ms
    grace_ms: Ms
    stop_timeout_ms: Ms
    strict: bool
    timer: Timer = Timer.LEADER
    needs_handler: bool = True
    calm: int = 1

    @classmethod
    def make(  # noqa: PLR0913 - one argument an option
        cls,
        *,
        name: str = "scheduler",
        instance: str | None = None,
        worker: bool = True,
        plan: bool = True,
        concurrency: int = 100,
        lease: Duration | None = None,
        worker_lease: Duration = "8s",
        grace: Duration = "10s",
        stop_timeout: Duration = "30s",
        strict: bool = False,
        timer: Timer | str = Timer.LEADER,
        needs_handler: bool = True,
    ) -> "SchedulerOptions":
        """Checked options. Raises ConfigError, which names the option, the value and the rule."""
        if not name or not isinstance(name, str):
            raise ConfigError(f"name must be text, the same in all processes of one scheduler; got {name!r:.80}")
        if (
            isinstance(concurrency, bool)
            or not isinstance(concurrency, int)
            or not 1 <= concurrency <= _CONCURRENCY_MAX
        ):
            raise ConfigError(f"concurrency must be a number from 1 to {_CONCURRENCY_MAX}; got {concurrency!r:.80}")
        return cls(
            name=name,
            given_instance=instance,
            instance=instance or _this_process(),
            worker=worker,
            plan=plan,
            concurrency=concurrency,
            lease_ms=None if lease is None else _within(lease, "lease", 500, 60_000),
            worker_lease_ms=_within(worker_lease, "worker_lease", 1_000, 600_000),
            grace_ms=_within(grace, "grace", 0, 86_400_000),
            stop_timeout_ms=_within(stop_timeout, "stop_timeout", 0, 86_400_000),
            strict=strict,
            timer=_timer(timer),
            needs_handler=needs_handler,
        )

    def in_this_process(self) -> "SchedulerOptions":
        """The options in a process that was forked off the one that made them."""
        return msgspec.structs.replace(self, instance=self.given_instance or _this_process())


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _timer(value: Any) -> Timer:  # noqa: ANN401 - whatever a caller gives
    try:
        return Timer(value)
    except ValueError:
        raise ConfigError(f"timer must be one of {', '.join(Timer)}; got {value!r:.80}") from None


def _within(value: Any, what: str, least: Ms, most: Ms) -> Ms:  # noqa: ANN401 - whatever a caller gives
    try:
        found = millis(value, what)
    except ValidationError as error:
        raise ConfigError(str(error)) from None
    if not least <= found <= most:
        raise ConfigError(f"{what} must be {least} to {most} ms; got {value!r:.80}")
    return found
