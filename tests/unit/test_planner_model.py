"""The planner against a model by brute force, over orders of edits, takes and takeovers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planner_model import Change, History, history
from tests.unit.planning import BIRTH, FIVES, NO_CATCHUP, SECONDS, TWOS, Jobs, mark, started

from natscron.engine.planner import Window
from natscron.model import CalendarSpec, CatchUp, CatchUpPolicy, Reason, ScheduleSpec, Skip, Weekly

EXCEPT_C = (ScheduleSpec(calendar="c"),)
POOL = [
    SECONDS,
    FIVES,
    TWOS,
    ScheduleSpec(every="700ms"),
    ScheduleSpec(cron="* * * * * *"),
    ScheduleSpec(every="2s", run_at_start=True),
    ScheduleSpec(cron="*/2 * * * * *", jitter="3s"),
    ScheduleSpec(cron="*/10 * * * * *", jitter="9s"),
    ScheduleSpec(every="5s", jitter="4s"),
    ScheduleSpec(cron="*/10 * * * * *", jitter="6s"),
    ScheduleSpec(cron="*/2 * * * * *", except_=EXCEPT_C),
    ScheduleSpec(cron="*/10 * * * * *", jitter="9s", except_=EXCEPT_C),
    ScheduleSpec(cron="* * * * * *", timer="server"),
    ScheduleSpec(every="1s", timer="server"),
    ScheduleSpec(cron="*/10 * * * * *", timer="server"),
]
CALENDARS = [
    CalendarSpec(),
    CalendarSpec(weekly=(Weekly(end="00:01"),)),
    CalendarSpec(weekly=(Weekly(start="00:01", end="00:03"),)),
]
EVERYTHING = CatchUp(policy=CatchUpPolicy.ALL, window_ms=86_400_000, limit=10_000, grace_ms=1)


class Model:
    """What a leader owes is what the writes that it saw say, less what was handed out or told of as skipped."""

    def __init__(self, schedule: ScheduleSpec, behind_ms: int, policy: CatchUp) -> None:
        self.jobs = Jobs()
        self.behind_ms = behind_ms
        self.jobs.now_ms = BIRTH
        self.content = CALENDARS[0]
        self.jobs.put_calendar(BIRTH, "c", self.content)
        self.entries = [self.jobs.create(schedule, catchup=policy)]
        assert self.entries[0].job.invalid is None
        self.seqs = [self.jobs.seq]
        self.changes = [Change(BIRTH, schedule, calendar=self.content_for(schedule))]
        self.now_ms = BIRTH
        self.stored = mark(BIRTH - behind_ms, 0)
        self.planner = started(from_ms=BIRTH - behind_ms)
        self.handed_out: set[int] = set()
        self.skipped: set[int] = set()
        self.journal: set[int] = set()
        self.by_old_view: set[int] = set()
        self.forgotten: set[int] = set()
        """What ran by an earlier schedule, after its edit, and jitter has yet to come to: no mark says so."""
        self.seen = 0

    def content_for(self, schedule: ScheduleSpec | None) -> CalendarSpec | None:
        return self.content if schedule is not None and schedule.except_ else None

    def see(self) -> None:
        if self.seen < len(self.entries):
            self.seen = len(self.entries)
            self.planner.put(self.entries[-1])

    @property
    def history(self) -> History:
        return history(self.changes[: self.seen], self.jobs.rows["a"].anchor_ms)

    def take(self, limit: int, grace_ms: int = NO_CATCHUP) -> None:
        now = self.now_ms - self.behind_ms
        seq = self.seqs[self.seen - 1] if self.seen else 0
        window = self.planner.take(now, seq, grace_floor_ms=grace_ms, limit=limit)
        got = [due.slot_ms for due in window.due]
        dues = [due.due_ms for due in window.due]
        assert dues == sorted(dues)
        assert len(got) == len(set(got))
        assert self.handed_out & set(got) <= self.journal | self.forgotten, "twice"
        owed = self.history.owed(now) if self.seen else {}
        assert {s: owed.get(s) for s in got} == dict(zip(got, dues, strict=True)), "not owed"
        told = self.told(window, set(owed))
        assert not told & set(got), "run and skipped"
        assert (self.handed_out | self.skipped) & told <= self.journal | self.handed_out | self.forgotten, "told twice"
        self.handed_out |= set(got)
        self.skipped |= told
        if self.seen < len(self.entries):
            self.by_old_view |= set(got) | told
        decided = self.planner.decided
        assert decided.instant_ms <= max(now, self.stored.instant_ms)
        assert window.more or decided.instant_ms >= now
        if self.seen and decided.jobs_seq >= seq:
            assert set(self.history.owed(decided.instant_ms)) <= self.handed_out | self.skipped, "lost"
        # What went out while the mark stood still, or is due after it, is known to a successor from the journal.
        self.journal |= set(got) | told
        if decided != self.stored:
            self.journal = {slot for slot in self.journal if owed.get(slot, 0) > decided.instant_ms}
        self.stored = decided

    def told(self, window: Window, owed: set[int]) -> set[int]:
        told: set[int] = set()
        for skipped in (missed.skipped for missed in window.missed):
            inside = {s for s in owed if skipped.from_ms <= s <= skipped.to_ms}
            if skipped.reason is Reason.SKIP_NEXT:
                skip = self.entries[self.seen - 1].job.skip
                assert skip is not None
                assert skip.from_ms < skipped.from_ms <= skipped.to_ms <= skip.until_ms
                assert {skipped.from_ms, skipped.to_ms} <= owed
                # What was told of by an earlier schedule may lie between the two ends.
                told |= inside - self.by_old_view
            else:
                assert skipped.reason is Reason.PAUSED
                assert skipped.count > 0
        return told

    def act(self, what: str, n: int) -> None:  # noqa: C901 - the alphabet
        match what:
            case "wait":
                self.now_ms += (1, 150, 999, 1_000, 2_500, 10_000)[n % 6]
            case "edit":
                self.write(schedule=POOL[n])
            case "label":
                self.write(note=str(n))
            case "pause":
                self.write(paused=n % 2 == 0, paused_until_ms=None)
            case "pause until":
                self.write(paused=True, paused_until_ms=self.now_ms + (0, 1, 700, 3_000, 8_000, 20_000)[n % 6])
            case "skip":
                until = (0, 900, 2_000, 4_100, 11_000, 30_000)[n % 6]
                self.write(skip=Skip(self.now_ms, self.now_ms + until) if until else None)
            case "calendar":
                self.put_calendar(CALENDARS[n % len(CALENDARS)])
            case "take":
                self.take((1, 2, 3, 1_000, 1_000, 1_000)[n % 6], NO_CATCHUP if n > 5 else 1_500)
            case "takeover":
                self.forgotten |= self.by_old_view
                self.planner = started(from_ms=self.stored.instant_ms, jobs_seq=self.stored.jobs_seq)
                self.seen = len(self.entries)
                self.planner.put(self.entries[-1])
            case "follow":
                self.forgotten |= self.by_old_view
                # Another leader hands out the same and is followed by a warm planner.
                leader, self.planner = (
                    self.planner,
                    started([self.entries[-1]], self.stored.instant_ms, self.stored.jobs_seq),
                )
                follower, self.planner = self.planner, leader
                self.drain()
                follower.follow(self.stored)
                follower.ready()
                self.planner, self.seen = follower, len(self.entries)
            case _:
                self.see()

    def drain(self) -> None:
        self.take(1_000_000)
        for _ in range(50):
            self.take(1_000_000, 1_500)

    def write(self, **changes: object) -> None:
        if len(self.jobs.rows["a"].previous) < 28:
            job = self.jobs.edit(self.now_ms, self.stored, **changes).job
            self.wrote(
                Change(self.now_ms, job.schedule, job.paused, job.paused_until_ms, self.content_for(job.schedule))
            )

    def put_calendar(self, content: CalendarSpec) -> None:
        if len(self.jobs.calendars["c"].previous) < 28:
            self.content = content
            self.jobs.put_calendar(self.now_ms, "c", content, self.stored)
            last = self.changes[-1]
            self.wrote(last._replace(at_ms=self.now_ms, calendar=self.content_for(last.schedule)))

    def wrote(self, change: Change) -> None:
        self.entries.append(self.jobs.entry())
        self.seqs.append(self.jobs.seq)
        self.changes.append(change)


ACTS = [
    *("wait", "wait", "edit", "edit", "label", "pause", "pause until", "skip", "calendar"),
    *("take", "take", "takeover", "follow", "see"),
]


@settings(max_examples=600, derandomize=True, deadline=None)
@given(
    first=st.sampled_from(POOL),
    behind_ms=st.sampled_from([0, 0, 400]),
    policy=st.sampled_from([CatchUp(), EVERYTHING]),
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, len(POOL) - 1)), max_size=40),
)
def test_no_order_of_edits_takes_and_takeovers_loses_or_repeats_a_slot(
    first: ScheduleSpec, behind_ms: int, policy: CatchUp, acts: list[tuple[str, int]]
) -> None:
    model = Model(first, behind_ms, policy)
    for what, n in acts:
        if what == "take" and policy is not EVERYTHING:
            n = max(n, 6)  # noqa: PLW2901 - the others are late only on purpose
        model.act(what, n)
    model.see()
    model.now_ms += 40_000
    model.take(1_000_000)
