"""``nats-cron message`` as a user types it, against a real server."""

import io
import itertools
import json
import sys
from typing import Any, NamedTuple

import pytest

from natscron.cli.main import cli, run
from natscron.testing.nats import NatsServer

_numbers = itertools.count(1)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Runs commands against a server; each test has a stream and subjects of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        number = next(_numbers)
        self.stream, self.root, self.prefix = f"CLI{number}", f"cli{number}", f"cli{number}.sched"

    def __call__(self, *args: str, stdin: bytes = b"") -> Ended:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(cli, ["message", *args, "--prefix", self.prefix])
        shown = self._capsys.readouterr()
        return Ended(code, shown.out, shown.err)

    def json(self, *args: str) -> Any:  # noqa: ANN401 - any JSON value
        ended = self(*args, "--json")
        assert ended.code == 0, ended
        return json.loads(ended.out)

    def target(self, name: str = "orders") -> str:
        return f"{self.root}.t.{name}"


@pytest.fixture
def bare(shared_nats: NatsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("NATSCRON_CONFIG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NATS_URL", shared_nats.url)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def shell(bare: Shell) -> Shell:
    assert bare("setup", bare.stream, f"{bare.root}.t.>").code == 0
    return bare


def test_a_stream_is_made_and_checked(bare: Shell) -> None:
    made = bare("setup", bare.stream, bare.target())
    assert made == Ended(0, f"Stream {bare.stream} made\n", "")
    assert bare("setup", bare.stream, bare.target()).out == f"Stream {bare.stream} is ready\n"
    checked = bare("check", bare.stream)
    assert checked.code == 0
    assert "single and recurring messages\nNothing to complain about\n" in checked.out
    report = bare.json("check", bare.stream)
    assert (report["ok"], report["recurring"], report["problems"], report["warnings"]) == (True, True, [], [])
    more = bare("setup", bare.stream, bare.target("more"))
    assert (more.code, more.out) == (1, "")
    assert "enable=True" in more.err
    enabled = bare("setup", bare.stream, bare.target("more"), "--enable")
    assert enabled.out == f"Stream {bare.stream} changed: subjects\n"


def test_a_stream_in_memory_is_made_with_a_warning(bare: Shell) -> None:
    made = bare("setup", bare.stream, "--storage", "memory")
    assert (made.code, made.out) == (0, f"Stream {bare.stream} made\n")
    assert "forgets all" in made.err


def test_a_stream_that_is_not_there_is_an_error(bare: Shell) -> None:
    ended = bare("check", "NOWHERE")
    assert (ended.code, ended.out) == (1, "")
    assert "stream NOWHERE does not exist" in ended.err


def test_a_message_is_scheduled_shown_listed_and_cancelled(shell: Shell) -> None:
    target = shell.target()
    stored = shell("at", target, "in 1h", '{"n": 1}', "--id", "order-1", "--header", "X-Team=billing", "--ttl", "5m")
    assert stored.code == 0, stored
    assert stored.out.startswith(f"Message for {target} stored, id order-1\n  Next: in ")
    shown = shell("show", target, "order-1")
    assert shown.code == 0
    for text in ("at 20", 'Data:     {"n": 1}', "Headers:  X-Team=billing", "Lives:    300s", f"{target}.order-1."):
        assert text in shown.out
    again = shell("at", target, "2h", "second", "--id", "order-1", "--rollup")
    assert again.out.startswith(f"Message for {target} replaced, id order-1\n")
    listed = shell("list", shell.stream)
    assert listed.out.splitlines()[0].split() == ["TARGET", "ID", "SCHEDULE", "NEXT", "DATA"]
    assert len(listed.out.splitlines()) == 2
    [one] = shell.json("list", shell.stream, target)
    assert one["payload"] == {"type": "text", "data": "second"}
    assert (one["kind"], one["id"], one["rollup"]) == ("at", "order-1", True)
    assert one["next_fire"] == one["schedule"]
    assert shell.json("list", shell.stream, shell.target("other")) == []
    assert shell("list", shell.stream, shell.target("other")).out == "No schedules found\n"
    assert shell("cancel", target, "order-1").out == f"Schedule 'order-1' for {target} cancelled\n"
    gone = shell("cancel", target, "order-1")
    assert (gone.code, gone.out) == (1, "")
    assert "it has fired, was cancelled, or never was" in gone.err
    assert shell("cancel", target, "order-1", "--if-exists").code == 0
    assert shell("show", target, "order-1").code == 1


def test_recurring_messages_and_samples(shell: Shell) -> None:
    every = shell.json("every", shell.target("a"), "5m", "tick", "--id", "ticks")
    assert (every["target"], every["id"], every["replaced"]) == (shell.target("a"), "ticks", False)
    assert every["next_fire"].endswith(".000Z")
    cron = shell("cron", shell.target("b"), "30 9 * * MON-FRI", "--tz", "America/New_York", "--id", "daily")
    assert cron.code == 0
    night = shell("cron", shell.target("b"), "0 30 2 * * *", "--tz", "Europe/Berlin", "--id", "night")
    assert "clock change" in night.err
    sample = shell.json("sample", shell.target("out"), shell.target("in"), "--every", "5m", "--id", "s")
    assert sample["warnings"] == []
    kinds = [
        (one["kind"], one["schedule"], one.get("tz"), one.get("source")) for one in shell.json("list", shell.stream)
    ]
    assert kinds == [
        ("every", "5m0s", None, None),
        ("cron", "0 30 9 * * 1-5", "America/New_York", None),
        ("cron", "0 30 2 * * *", "Europe/Berlin", None),
        ("sample", "5m0s", None, shell.target("in")),
    ]
    table = shell("list", shell.stream, "--limit", "2").out
    assert "every 5m0s" in table
    assert "0 30 9 * * 1-5 [America/New_York]" in table
    assert len(table.splitlines()) == 3
    assert f"every 5m0s, last of {shell.target('in')}" not in table
    assert f"last of {shell.target('in')}" in shell("show", shell.target("out"), "s").out


def test_data_can_come_from_the_standard_input_and_need_not_be_text(shell: Shell) -> None:
    ended = shell("at", shell.target(), "1h", "-", "--id", "raw", stdin=b"\xff\x00")
    assert ended.code == 0
    shown = shell.json("show", shell.target(), "raw")
    assert shown["payload"] == {"type": "base64", "data": "/wA="}
    assert "/wA= (base64)" in shell("show", shell.target(), "raw").out


def test_a_message_that_is_over_comes_now_or_is_refused(shell: Shell) -> None:
    over = shell("at", shell.target(), "2020-01-01T00:00:00Z", "--past", "refuse")
    assert over.code == 1
    assert "is over" in over.err
    assert shell("at", shell.target(), "2020-01-01T00:00:00Z", "x").code == 0


def test_a_message_is_published_in_the_step_that_cancels(shell: Shell) -> None:
    shell("at", shell.target(), "1h", "x", "--id", "a")
    log = shell.target("log")
    done = shell.json("cancel", shell.target(), "a", "--publish", log, "--data", "cancelled")
    assert done == [{"target": shell.target(), "id": "a", "cancelled": True}]
    assert shell("cancel", shell.target(), "a", "--publish", log, "--json").code == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("at", "{}", "tomorrow"), "is no instant"),
        (("at", "{}", "1h", "x", "--header", "novalue"), "is not KEY=VALUE"),
        (("sample", "{}", "in"), "either --every or --cron"),
        (("sample", "{}", "in", "--every", "5m", "--tz", "UTC"), "--tz goes with --cron"),
        (("cancel", "{}", "a", "--data", "x"), "--data goes with --publish"),
        (("cancel", "{}", "a", "b", "--publish", "x"), "one ID"),
        (("cancel", "{}"), "Missing argument"),
        (("setup", "S", "--replicas", "9"), "--replicas"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(bare: Shell, args: tuple[str, ...], text: str) -> None:
    ended = bare(*(one.format(bare.target()) for one in args))
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("cron", "{}", "0 0 L * *"), "uses L"),
        (("every", "{}", "1500ms"), "whole seconds"),
        (("at", "{}", "1h", "--ttl", "soon"), "ttl 'soon'"),
        (("at", "no.such.subject", "1h"), "no stream holds 'no.such.subject'; make one with"),
        (("at", "a..b", "1h"), "empty token"),
        (("at", "{}", "1h", "--stream", "NOWHERE"), "does not exist"),
    ],
)
def test_what_cannot_be_done_is_told_and_ends_with_1(shell: Shell, args: tuple[str, ...], text: str) -> None:
    ended = shell(*(one.format(shell.target()) for one in args))
    assert (ended.code, ended.out) == (1, "")
    assert text in ended.err
    told = json.loads(shell(*(one.format(shell.target()) for one in args), "--json").err)
    assert text in told["error"]


@pytest.mark.parametrize("name", ["setup", "check", "at", "every", "cron", "sample", "list", "show", "cancel"])
def test_every_command_teaches_by_examples(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(cli, ["message", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"nats-cron message {name}" in shown
    assert "Examples:" in shown
