"""How late runs leave."""

from natscron.engine.journal import Ready
from natscron.engine.lateness import Lateness
from natscron.engine.planner import Cursor
from natscron.engine.table import Entry
from natscron.model import Delivery, Job, Trigger
from natscron.schedule.once import OnceSchedule
from natscron.storage.protocol import Staged

CURSOR = Cursor(Entry(Job(id="a"), None, ()), OnceSchedule(0), 0, None)


def run(due_ms: int, trigger: Trigger = Trigger.SCHEDULE) -> Ready:
    return Ready(
        due_ms, due_ms, CURSOR, trigger, "id", Delivery.CORE, Staged(None, 0), "a", guarded=False, tracked=False
    )


def test_without_runs_there_is_nothing_to_say() -> None:
    assert Lateness().percentile(0.5) is None


def test_percentiles_are_of_what_was_late_in_milliseconds() -> None:
    lateness = Lateness()
    lateness.add([run(1_000 - n) for n in range(100)], 1_000)
    assert lateness.percentile(0.5) == 50
    assert lateness.percentile(0.99) == 99
    assert lateness.percentile(1.0) == 99


def test_what_is_caught_up_with_does_not_count() -> None:
    lateness = Lateness()
    lateness.add([run(0, Trigger.CATCHUP), run(999)], 1_000)
    assert lateness.percentile(1.0) == 1


def test_only_the_newest_few_thousand_are_kept() -> None:
    lateness = Lateness()
    lateness.add([run(0)], 1_000)
    lateness.add([run(999)] * 5_000, 1_000)
    assert lateness.percentile(1.0) == 1
