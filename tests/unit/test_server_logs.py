"""The server's log: a line of JSON a record, no secret in it, and a reader that stalls stalls nobody."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.server.logs import JsonLogHandler, configure_logging, redact


class Stalled(io.BytesIO):
    """A reader that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, data: Any) -> int:  # noqa: ANN401 - the base class's own type
        self.go.wait()
        return super().write(data)


@pytest.fixture
def restored() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("natscron")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def written(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("restored")
def test_a_record_is_one_line_with_level_time_message_and_fields() -> None:
    stream = io.BytesIO()
    handler = configure_logging("info", stream=stream)
    log = logging.getLogger("natscron.engine")
    log.info("Leading since %s", "now", extra={"instance_id": "i1", "epoch": 3, "more": {"a": [1]}})
    log.debug("not at this level")
    logging.getLogger("other").info("a library's chatter")
    handler.close()
    (line,) = written(stream)
    assert list(line) == ["level", "time", "msg", "instance_id", "epoch", "more"]
    assert (line["level"], line["msg"], line["epoch"], line["more"]) == ("info", "Leading since now", 3, {"a": [1]})
    assert line["time"].endswith("Z")


@pytest.mark.usefixtures("restored")
def test_no_secret_is_written_wherever_it_stands() -> None:
    stream = io.BytesIO()
    handler = configure_logging("debug", stream=stream, secrets=("hunter2", ""))
    log = logging.getLogger("natscron.x")
    url = "nats://user:p/w@d@host:4222"
    try:
        int(url)
    except ValueError:
        log.exception("at %s", url, extra={"url": url, "list": [url], "deep": {"k": (url,)}, "password": "hunter2"})
    handler.close()
    text = stream.getvalue().decode()
    assert "p/w" not in text
    assert "hunter2" not in text
    assert "nats://***@host:4222" in text
    (line,) = written(stream)
    assert line["level"] == "error"
    assert "ValueError" in line["stacktrace"]


def test_redacting_leaves_ordinary_text_alone() -> None:
    assert redact("mail a@b about nats://host:4222 now") == "mail a@b about nats://host:4222 now"
    assert redact("nats://t0ken@a,nats://u:p@b") == "nats://***@b"


def test_a_reader_that_stalls_costs_lines_and_not_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natscron.server.logs._QUEUE_LINES", 10)
    stream = Stalled()
    handler = JsonLogHandler(stream)
    for n in range(100):
        handler.emit(logging.makeLogRecord({"msg": f"line {n}", "levelno": logging.INFO}))
    stream.go.set()
    while not handler._lines.empty():
        pass
    handler.emit(logging.makeLogRecord({"msg": "after", "levelno": logging.INFO}))
    handler.close()
    lines = written(stream)
    assert lines[-1]["msg"] == "after"
    # Said once or, where the reader catches up in between, more than once.
    dropped = [line["count"] for line in lines if line["msg"] == "Log lines were dropped"]
    assert dropped
    assert sum(dropped) + len(lines) - 1 - len(dropped) == 100


def test_a_stream_that_is_gone_ends_nothing() -> None:
    stream = io.BytesIO()
    handler = JsonLogHandler(stream)
    stream.close()
    handler.emit(logging.makeLogRecord({"msg": "into the void", "levelno": logging.INFO}))
    handler.close()


@given(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none(), st.just("\ud800")))
def test_whatever_is_logged_gives_a_line(message: str, value: object) -> None:
    stream = io.BytesIO()
    handler = JsonLogHandler(stream)
    handler.emit(logging.makeLogRecord({"msg": message, "field": value, "levelno": logging.INFO}))
    handler.close()
    (line,) = written(stream)
    assert set(line) == {"level", "time", "msg", "field"}
