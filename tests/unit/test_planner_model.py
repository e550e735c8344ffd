"""The planner against a model by brute force, over orders of edits, takes and takeovers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planning import BIRTH, FIVES, SECONDS, TWOS, Jobs, mark, started, take

from natscron.model import ScheduleSpec
from natscron.schedule import compile_schedule

POOL = [
    SECONDS,
    FIVES,
    TWOS,
    ScheduleSpec(every="700ms"),
    ScheduleSpec(cron="* * * * * *"),
    ScheduleSpec(every="2s", run_at_start=True),
]


class Model:
    """Told by brute force: what a leader owes is what the row it saw last has in force, less what was handed out."""

    def __init__(self, schedule: ScheduleSpec, behind_ms: int) -> None:
        self.jobs = Jobs()
        self.behind_ms = behind_ms
        self.writes = [self.jobs.create(schedule)]
        self.now_ms = BIRTH
        self.stored = mark(BIRTH - behind_ms, 0)
        self.planner = started(from_ms=BIRTH - behind_ms)
        self.handed_out: set[int] = set()
        self.journal: set[int] = set()
        self.seen = 0

    def see(self) -> None:
        if self.seen < len(self.writes):
            self.seen = len(self.writes)
            self.planner.put(self.writes[-1])

    def take(self, limit: int) -> None:
        now = self.now_ms - self.behind_ms
        window = take(self.planner, now, self.seen, limit)
        got = [due.slot_ms for due in window.due]
        assert got == sorted(got)
        assert self.handed_out & set(got) <= self.journal, "twice"
        assert set(got) <= self.owed(now), "not owed"
        self.handed_out |= set(got)
        decided = self.planner.decided
        assert decided.instant_ms <= max(now, self.stored.instant_ms)
        assert window.more or decided.instant_ms >= now
        if decided.jobs_seq >= self.seen:
            assert self.owed(decided.instant_ms) <= self.handed_out, "lost"
        # What went out while the mark stood still is known to a successor from the journal.
        self.journal = set() if decided != self.stored else self.journal | set(got)
        self.stored = decided

    def owed(self, until_ms: int) -> set[int]:
        found: set[int] = set()
        writes = self.writes[: self.seen]
        for i, entry in enumerate(writes):
            job = entry.job
            if job.paused or job.schedule is None or job.counts_from.seq != job.revision:
                continue
            changes = [w.job for w in writes[i + 1 :] if w.job.counts_from.seq == w.job.revision]
            end = min(changes[0].updated_at_ms, until_ms) if changes else until_ms
            schedule = compile_schedule(job.schedule, anchor_ms=job.anchor_ms, seed=job.id).schedule
            start = job.updated_at_ms - (1 if i == 0 and job.schedule.run_at_start else 0)
            slot = schedule.next_after_ms(start)
            while slot is not None and slot <= end:
                found.add(slot)
                slot = schedule.next_after_ms(slot)
        return found

    def act(self, what: str, n: int) -> None:
        match what:
            case "wait":
                self.now_ms += (1, 150, 999, 1_000, 2_500, 10_000)[n]
            case "edit":
                self.write(schedule=POOL[n])
            case "label":
                self.write(note=str(n))
            case "pause":
                self.write(paused=n % 2 == 0)
            case "take":
                self.take((1, 2, 3, 1_000, 1_000, 1_000)[n])
            case "takeover":
                self.planner = started(from_ms=self.stored.instant_ms, jobs_seq=self.stored.jobs_seq)
                self.seen = len(self.writes)
                self.planner.put(self.writes[-1])
            case "follow":
                # Another leader hands out the same and is followed by a warm planner.
                leader, self.planner = (
                    self.planner,
                    started([self.writes[-1]], self.stored.instant_ms, self.stored.jobs_seq),
                )
                follower, self.planner = self.planner, leader
                self.take(1_000_000)
                follower.follow(self.stored)
                follower.ready()
                self.planner, self.seen = follower, len(self.writes)
            case _:
                self.see()

    def write(self, **changes: object) -> None:
        if len(self.jobs.rows["a"].previous) < 30:
            self.writes.append(self.jobs.edit(self.now_ms, self.stored, **changes))


ACTS = ["wait", "wait", "edit", "label", "pause", "take", "take", "takeover", "follow", "see"]


@settings(max_examples=400, derandomize=True)
@given(
    first=st.sampled_from(POOL),
    behind_ms=st.sampled_from([0, 0, 400]),
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5)), max_size=40),
)
def test_no_order_of_edits_takes_and_takeovers_loses_or_repeats_a_slot(
    first: ScheduleSpec, behind_ms: int, acts: list[tuple[str, int]]
) -> None:
    model = Model(first, behind_ms)
    for what, n in acts:
        model.act(what, n)
    model.see()
    model.now_ms += 20_000
    model.take(1_000_000)
