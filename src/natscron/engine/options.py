"""What can be set about the engine."""

import msgspec

from natscron.model import Ms


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``namespace`` goes into every run id (the service's name); ``instance`` names this process to people.

    ``lease_ms``: 500 to 60,000, default 2,000. ``grace_ms``: default 10,000; never less than the lease + 10 s is
    used. ``max_skew_ms``: how far this host's clock may be from the store's before it may not lead. ``keep_done_ms``:
    how long a finished once job is kept. ``plan`` False: this instance never leads.

    ``calm``: how many times rarer than usual it looks around while nothing happens; its lease is given as many times
    longer. 1, but on virtual time, where looking costs more than waiting. Over 1, records are stored at once.
    """

    namespace: str
    instance: str
    lease_ms: Ms = 2_000
    grace_ms: Ms = 10_000
    max_skew_ms: Ms = 10_000
    min_interval_ns: int = 10_000_000
    keep_done_ms: Ms = 24 * 3_600_000
    plan: bool = True
    calm: int = 1
    version: str = ""

    @property
    def effective_grace_ms(self) -> Ms:
        """The least grace of any job: a takeover alone may take a lease, and some time to get going."""
        return max(self.grace_ms, self.lease_ms // self.calm + 10_000)
