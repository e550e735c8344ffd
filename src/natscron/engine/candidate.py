"""Whether the lease may be taken: pure, from what was seen of it and when.

No host's wall clock is compared with another's: the age of a record is what passed on this host's own clock since it
saw the record change.
"""

from enum import StrEnum

from natscron.model import Holder, LeaseRecord


class Claim(StrEnum):
    """What a candidate may do now."""

    FIRST = "first"
    """There never was a lease: create it."""
    FREE = "free"
    """It was released."""
    OWN = "own"
    """This process holds it from a leadership that it lost track of."""
    EXPIRED = "expired"
    """Its holder has not renewed it for longer than its duration."""
    HELD = "held"
    """Somebody else holds it."""


class Observed:
    """The lease as a candidate sees it."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.known = False
        """Whether the store was asked at all: before that, nothing may be concluded."""
        self._since_s = 0.0

    def saw(self, record: LeaseRecord | None, trust_s: float) -> None:
        """The record was seen (None: there is none). Seen again unchanged, it goes on ageing."""
        if not self.known or record is None or self.record is None or record.revision != self.record.revision:
            self._since_s = trust_s
        self.record = record
        self.known = True

    def claim(self, me: Holder, trust_s: float, own_lease_ms: int) -> Claim:
        """What may be done at ``trust_s``. The longer of the holder's and the own duration counts."""
        if self.record is None:
            return Claim.FIRST if self.known else Claim.HELD
        lease = self.record.lease
        if lease.holder is None:
            return Claim.FREE
        if lease.holder == me:
            return Claim.OWN
        return Claim.EXPIRED if self.expires_in_s(trust_s, own_lease_ms) <= 0 else Claim.HELD

    def leader(self, trust_s: float, own_lease_ms: int) -> str | None:
        """The instance that holds the lease; None if nobody does, or its holder let it run out."""
        if self.record is None or self.record.lease.holder is None or self.expires_in_s(trust_s, own_lease_ms) <= 0:
            return None
        return self.record.lease.holder.instance

    def expires_in_s(self, trust_s: float, own_lease_ms: int) -> float:
        """Seconds until a lease that is not renewed may be taken."""
        if self.record is None:
            return 0.0
        duration = max(self.record.lease.duration_ms, own_lease_ms) / 1000
        return self._since_s + duration - trust_s
