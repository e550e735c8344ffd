"""Whether the lease may be taken."""

import msgspec

from natscron.engine.candidate import Claim, Observed
from natscron.model import Holder, Lease, LeaseRecord, Mark

ME = Holder("host", "me")
TWIN = Holder("host", "other")


def record(revision: int, holder: Holder | None = TWIN, duration_ms: int = 2_000) -> LeaseRecord:
    lease = Lease(epoch=1, mark=Mark(instant_ms=0), holder=holder, duration_ms=duration_ms)
    return LeaseRecord(lease, revision, 0)


def test_before_the_store_was_asked_nothing_is_concluded() -> None:
    assert Observed().claim(ME, 99.0, 2_000) is Claim.HELD


def test_where_there_never_was_a_lease_it_is_the_first() -> None:
    observed = Observed()
    observed.saw(None, 1.0)
    assert observed.claim(ME, 1.0, 2_000) is Claim.FIRST


def test_a_released_lease_is_free_at_once() -> None:
    observed = Observed()
    observed.saw(record(1), 1.0)
    observed.saw(record(2, None), 1.1)
    assert observed.claim(ME, 1.1, 2_000) is Claim.FREE


def test_a_process_knows_its_own_lease_and_not_its_twins() -> None:
    observed = Observed()
    observed.saw(record(1, ME), 1.0)
    assert observed.claim(ME, 1.0, 2_000) is Claim.OWN
    observed.saw(record(2, TWIN), 1.0)
    assert observed.claim(ME, 1.0, 2_000) is Claim.HELD


def test_a_lease_expires_by_what_passed_here_since_it_changed() -> None:
    observed = Observed()
    observed.saw(record(1), 1.0)
    assert observed.claim(ME, 2.9, 2_000) is Claim.HELD
    assert observed.claim(ME, 3.0, 2_000) is Claim.EXPIRED
    observed.saw(record(2), 2.9)
    assert observed.claim(ME, 4.8, 2_000) is Claim.HELD
    assert observed.claim(ME, 4.9, 2_000) is Claim.EXPIRED


def test_a_lease_that_is_only_seen_again_goes_on_ageing() -> None:
    observed = Observed()
    observed.saw(record(1), 1.0)
    observed.saw(msgspec.structs.replace(record(1), stored_at_ms=77), 2.5)
    assert observed.claim(ME, 3.0, 2_000) is Claim.EXPIRED


def test_the_longer_of_both_durations_counts() -> None:
    observed = Observed()
    observed.saw(record(1, duration_ms=5_000), 1.0)
    assert observed.claim(ME, 5.9, 2_000) is Claim.HELD
    observed.saw(record(2, duration_ms=500), 1.0)
    assert observed.claim(ME, 2.9, 2_000) is Claim.HELD
    assert observed.expires_in_s(1.5, 2_000) == 1.5
