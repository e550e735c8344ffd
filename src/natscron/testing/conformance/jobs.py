"""What every JobStore does."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

import asyncio

from natscron.errors import (
    JobAlreadyExistsError,
    JobNotFoundError,
    WrongRevisionError,
)
from natscron.storage.protocol import Storage
from natscron.testing.conformance.sinks import EVERY, WAIT_S, Jobs, a_job, fails


class JobStoreChecks:
    """The JobStore role."""

    async def test_a_job_is_read_back_as_it_was_written_with_the_stores_own_fields(self, storage: Storage) -> None:
        assert await storage.fetch_job("jobs.a") is None
        revision = await storage.create_job(a_job(team="x"))
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert (job.schedule, job.labels) == (EVERY, {"team": "x"})
        assert (job.revision, job.generation, job.counts_from.seq) == (revision, revision, revision)
        assert job.created_at_ms == job.updated_at_ms == job.anchor_ms == job.counts_from.at_ms > 0

    async def test_an_id_of_any_form_is_kept(self, storage: Storage) -> None:
        for job_id in ("plain", "a.b.c", "with space", "café", "a*b>c", "_reserved", "sl/ash", ".dot."):
            await storage.create_job(a_job(job_id))
            job = await storage.fetch_job(job_id)
            assert job is not None, job_id
            assert job.id == job_id

    async def test_labels_are_kept_and_none_are_an_empty_mapping(self, storage: Storage) -> None:
        labels = {"team": "x", "ünïcode": "😀", "empty": "", "Team": "other", "long": "y" * 5_000}
        await storage.create_job(a_job("jobs.a", **labels))
        await storage.create_job(a_job("jobs.b"))
        one, two = await storage.fetch_job("jobs.a"), await storage.fetch_job("jobs.b")
        assert one is not None
        assert two is not None
        assert (one.labels, two.labels) == (labels, {})

    async def test_changing_what_was_given_or_returned_changes_nothing_in_the_store(self, storage: Storage) -> None:
        given = a_job(team="x")
        await storage.create_job(given)
        given.labels["team"] = "changed"
        found = await storage.fetch_job("jobs.a")
        assert found is not None
        found.labels["other"] = "changed"
        again = await storage.fetch_job("jobs.a")
        assert again is not None
        assert again.labels == {"team": "x"}

    async def test_jobs_that_are_created_at_once_are_all_kept(self, storage: Storage) -> None:
        revisions = await asyncio.gather(*(storage.create_job(a_job(f"jobs.{n}")) for n in range(20)))
        assert len(set(revisions)) == 20
        assert await storage.last_jobs_seq() == max(revisions)
        for n, revision in enumerate(revisions):
            job = await storage.fetch_job(f"jobs.{n}")
            assert job is not None
            assert job.revision == revision

    async def test_of_two_creates_one_is_refused_and_writes_nothing(self, storage: Storage) -> None:
        await storage.create_job(a_job(who="first"))
        seq = await storage.last_jobs_seq()
        await fails(JobAlreadyExistsError, storage.create_job(a_job(who="second")))
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert job.labels == {"who": "first"}
        assert await storage.last_jobs_seq() == seq

    async def test_of_many_creates_at_once_one_wins(self, storage: Storage) -> None:
        results = await asyncio.gather(*(storage.create_job(a_job()) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, JobAlreadyExistsError) for result in results) == 9

    async def test_a_write_at_another_revision_is_refused_and_writes_nothing(self, storage: Storage) -> None:
        first = await storage.create_job(a_job())
        second = await storage.put_job(a_job(n="2"), first)
        assert second > first
        for wrong in (first, second + 100, 0):
            await fails(WrongRevisionError, storage.put_job(a_job(n="3"), wrong))
        await fails(WrongRevisionError, storage.delete_job("jobs.a", first))
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert (job.revision, job.labels) == (second, {"n": "2"})
        await storage.delete_job("jobs.a", second)
        assert await storage.fetch_job("jobs.a") is None

    async def test_a_write_without_a_revision_takes_what_is_there(self, storage: Storage) -> None:
        await storage.put_job(a_job(n="1"))
        await storage.put_job(a_job(n="2"))
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert job.labels == {"n": "2"}

    async def test_revision_zero_expects_that_there_is_none(self, storage: Storage) -> None:
        await storage.put_job(a_job(), 0)
        await storage.delete_job("jobs.a")
        await storage.put_job(a_job(n="again"), 0)
        await fails(WrongRevisionError, storage.put_job(a_job(), 0))

    async def test_of_two_edits_from_one_revision_one_wins(self, storage: Storage) -> None:
        revision = await storage.create_job(a_job())
        results = await asyncio.gather(
            *(storage.put_job(a_job(n=str(n)), revision) for n in range(5)), return_exceptions=True
        )
        assert sum(isinstance(result, int) for result in results) == 1

    async def test_deleting_an_unknown_job_is_an_error_and_writes_nothing(self, storage: Storage) -> None:
        seq = await storage.last_jobs_seq()
        await fails(JobNotFoundError, storage.delete_job("jobs.unknown"))
        assert await storage.last_jobs_seq() == seq

    async def test_a_job_created_again_is_a_new_one(self, storage: Storage) -> None:
        first = await storage.create_job(a_job())
        await storage.delete_job("jobs.a")
        await fails(JobNotFoundError, storage.delete_job("jobs.a"))
        again = await storage.create_job(a_job())
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert job.generation == again > first

    async def test_the_last_sequence_counts_every_write_deletions_too(self, storage: Storage) -> None:
        revision = await storage.create_job(a_job())
        assert await storage.last_jobs_seq() == revision
        await storage.delete_job("jobs.a")
        assert await storage.last_jobs_seq() == revision + 1

    async def test_a_watch_hands_over_all_jobs_and_then_every_change(self, storage: Storage) -> None:
        revision = await storage.create_job(a_job())
        await storage.create_job(a_job("jobs.b"))
        await storage.delete_job("jobs.b")
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        await watch.ready()
        assert set(sink.jobs) == {"jobs.a"}
        assert sink.seq >= revision
        new = await storage.create_job(a_job("jobs.c"))
        await sink.until(lambda: sink.seq >= new)
        assert set(sink.jobs) == {"jobs.a", "jobs.c"}
        await storage.delete_job("jobs.a")
        last = await storage.last_jobs_seq()
        await sink.until(lambda: sink.seq >= last)
        assert set(sink.jobs) == {"jobs.c"}
        assert sink.jobs["jobs.c"] == await storage.fetch_job("jobs.c")
        await watch.close()

    async def test_a_watch_of_an_empty_store_is_ready(self, storage: Storage) -> None:
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        async with asyncio.timeout(WAIT_S):
            await watch.ready()
        assert sink.jobs == {}
        await watch.close()

    async def test_a_renewed_watch_hands_over_the_whole_again(self, storage: Storage) -> None:
        await storage.create_job(a_job())
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        await watch.ready()
        sink.jobs.clear()
        watch.renew()
        await sink.until(lambda: set(sink.jobs) == {"jobs.a"} and sink.seq >= 1)
        await watch.close()

    async def test_a_closed_watch_tells_nothing_and_may_be_closed_twice(self, storage: Storage) -> None:
        closed, open_ = Jobs(), Jobs()
        watch, other = storage.watch_jobs(closed), storage.watch_jobs(open_)
        await watch.ready()
        await other.ready()
        await watch.close()
        await watch.close()
        revision = await storage.create_job(a_job())
        await open_.until(lambda: open_.seq >= revision)
        assert closed.jobs == {}
        await other.close()

    async def test_sweeping_takes_no_job_and_no_revision_away(self, storage: Storage) -> None:
        await storage.create_job(a_job("jobs.gone"))
        await storage.delete_job("jobs.gone")
        revision = await storage.create_job(a_job())
        await storage.sweep()
        job = await storage.fetch_job("jobs.a")
        assert job is not None
        assert job.revision == revision
        assert await storage.last_jobs_seq() == revision

    async def test_a_healthy_store_says_so_and_may_be_initialized_twice(self, storage: Storage) -> None:
        await storage.initialize()
        await storage.health_check()
