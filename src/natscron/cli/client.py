"""The API as a client sees it: requests, errors, paging, live runs.

It also understands a server of the Go version: errors in plain text, a create that fails with a reply shaped like
success, lists without paging.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from natscron.codec.keys import key_of
from natscron.config import Settings, redact_url
from natscron.errors import MalformedInputError, NatscronError

__all__ = ["JSON_ERRORS", "ApiClient", "ApiError", "Body", "NoAnswerError", "Reply", "Transport", "matches"]

Body = dict[str, Any]
JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON that somebody else wrote can raise."""

_DETAILS_AT_ONCE: Final = 16
_PAGES_MAX: Final = 100_000
_ERROR_HEADER: Final = "nats-service-error"
_CODE_HEADER: Final = "nats-service-error-code"


class Reply(NamedTuple):
    """A reply as it came."""

    data: bytes
    headers: Mapping[str, str]


class Transport(Protocol):
    """What the client needs of a connection."""

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        """One reply. Raises NoAnswerError with nobody subscribed, and TimeoutError (with NATS's objection, if any)."""
        ...

    def subscribe(self, subject: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Messages of a subject as they come; subscribed when the context is entered."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class NoAnswerError(NatscronError):
    """Nobody is subscribed to the API's subject."""

    code = 503
    retry_helps = True


class ApiError(NatscronError):
    """The service answered with an error; its text and its code as it gave them."""

    def __init__(self, text: str, status: str = "") -> None:
        """``status`` as text, empty where the service gave none."""
        super().__init__(text)
        self.status = status


class ApiClient:
    """One connection to the service's API."""

    def __init__(self, transport: Transport, settings: Settings, timeout_s: float) -> None:
        """``timeout_s`` holds for each request."""
        self._transport = transport
        self._prefix = settings.service.prefix
        self._where = redact_url(settings.nats.url)
        self._timeout_s = timeout_s

    async def call(self, endpoint: str, body: Mapping[str, Any] | None = None) -> Body:
        """Ask ``<prefix>.<endpoint>``; the reply as an object.

        Raises:
            ApiError: the service refused, with its text.
            NoAnswerError: no service is there, with what to do about it.
            MalformedInputError: the reply is not a JSON object, or the body not UTF-8.
        """
        try:
            data = b"" if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError:
            raise MalformedInputError("the arguments hold bytes that are not UTF-8, which JSON cannot carry") from None
        subject = f"{self._prefix}.{endpoint}"
        try:
            reply = await self._transport.request(subject, data, self._timeout_s)
        except NoAnswerError:
            raise NoAnswerError(
                f"no {self._prefix} instance answers {subject} at {self._where}; start one with `nats-cron server` "
                "(or `nats-cron dev`), or check --server, --name and the account's permissions"
            ) from None
        except TimeoutError as error:
            if error.args:
                raise NoAnswerError(f"no answer to {subject} at {self._where}; NATS said: {error.args[0]}") from None
            raise NoAnswerError(
                f"no answer to {subject} at {self._where} within {self._timeout_s:g}s: it may have taken effect; "
                "look before trying again, or give a longer --timeout"
            ) from None
        return _decoded(reply, subject)

    async def jobs(
        self,
        *,
        pattern: str | None = None,
        state: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> list[Body]:
        """All matching jobs, page by page, as whole as ``jobs.get`` has them."""
        return await self._whole(await self._listed(pattern=pattern, state=state, label=label, limit=limit))

    async def subjects(self, pattern: str) -> list[str]:
        """The subjects of the jobs that match."""
        return [str(job["subject"]) for job in await self._listed(pattern=pattern)]

    async def _listed(self, *, limit: int | None = None, **filters: str | None) -> list[Body]:
        pattern = filters.get("pattern")
        query: Body = {key: value for key, value in (filters | {"limit": limit}).items() if value is not None}
        found: list[Body] = []
        for _ in range(_PAGES_MAX):
            page = await self.call("jobs.list", query or None)
            found += [job for job in page.get("jobs") or [] if isinstance(job, dict)]
            if not page.get("next") or (limit is not None and len(found) >= limit):
                break
            query["cursor"] = page["next"]
        if pattern is not None:
            # The Go version answers with all jobs, whatever was asked.
            found = [job for job in found if matches(pattern, str(job.get("subject", "")))]
        return found[:limit]

    async def _whole(self, jobs: list[Body]) -> list[Body]:
        """The Go version lists subjects only; the rest is asked for, some at a time."""
        import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

        gate = asyncio.Semaphore(_DETAILS_AT_ONCE)

        async def detail(job: Body) -> Body:
            if "schedule" in job or "state" in job or not job.get("subject"):
                return job
            async with gate:
                try:
                    return job | await self.call("jobs.get", {"subject": job["subject"]})
                except ApiError:
                    return job  # deleted meanwhile, or not readable: what the list said stands

        return list(await asyncio.gather(*map(detail, jobs)))

    async def runs(self, query: Mapping[str, Any], limit: int) -> list[Body]:
        """The newest ``limit`` matching run records, newest first, page by page."""
        found: list[Body] = []
        cursor: Body = {}
        for _ in range(_PAGES_MAX):
            page = await self.call("runs.list", {**query, **cursor, "limit": limit - len(found)})
            found += [run for run in page.get("runs") or [] if isinstance(run, dict)]
            if not page.get("next") or len(found) >= limit:
                break
            cursor = {"cursor": page["next"]}
        return found[:limit]

    def live(self, job: str | None = None) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Run records as the service publishes them, each as JSON; of one job, or of all."""
        return self._transport.subscribe(f"{self._prefix}.log.{'>' if job is None else key_of(job)}")

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()


def _decoded(reply: Reply, subject: str) -> Body:
    headers = {key.lower(): value for key, value in reply.headers.items()}
    body: object = None
    try:
        body = msgspec.json.decode(reply.data) if reply.data else {}
    except JSON_ERRORS as error:
        if _ERROR_HEADER not in headers:
            raise MalformedInputError(
                f"the reply to {subject} is not JSON; is another service subscribed to that subject?"
            ) from error
    told = body.get("error") if isinstance(body, dict) else None
    if _ERROR_HEADER in headers or isinstance(told, str):
        said = headers.get(_ERROR_HEADER, "")
        code = headers.get(_CODE_HEADER) or (str(body.get("code") or "") if isinstance(body, dict) else "")
        if isinstance(told, str) and told:
            raise ApiError(told, code)
        # The Go version: the header says what failed, and the body why, as plain text.
        text = reply.data.decode(errors="replace") if body is None else ""
        raise ApiError(f"{said}: {text}" if said and text else said or text or "the service refused", code)
    if not isinstance(body, dict):
        raise MalformedInputError(f"the reply to {subject} is not a JSON object; is another service subscribed there?")
    return body


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a pattern as NATS does: ``a.>`` needs at least one token after ``a``."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(one in {"*", token} for one, token in zip(wanted, tokens, strict=True))
