"""Connection contexts as natscli keeps them."""

import json
from pathlib import Path

import pytest

from natscron.cli.contexts import read_context
from natscron.cli.session import Session
from natscron.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("NATS_URL", "NATSCRON_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return folder


def environ_of(home: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(home.parent.parent)}


def test_a_context_sets_the_address_and_the_identity(home: Path) -> None:
    (home / "prod.json").write_text(
        json.dumps({"url": "nats://p", "user": "u", "password": "p", "creds": "", "jetstream_domain": "hub"})
    )
    found, sources = read_context("prod", environ_of(home))
    assert found == {"nats.url": "nats://p", "nats.user": "u", "nats.password": "p"}
    assert "the context prod" in sources["nats.url"]


def test_a_user_without_a_password_is_a_token_as_in_natscli(home: Path) -> None:
    (home / "prod.json").write_text('{"user": "t0k"}')
    assert read_context("prod", environ_of(home))[0] == {"nats.token": "t0k"}


def test_the_selected_context_is_a_dash(home: Path) -> None:
    (home / "prod.json").write_text('{"url": "nats://p"}')
    (home.parent / "context.txt").write_text("prod\n")
    assert read_context("-", environ_of(home))[0] == {"nats.url": "nats://p"}


def test_without_xdg_the_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"no file {tmp_path}/\.config/nats/context/x\.json"):
        read_context("x", {})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("prd", "did you mean prod?"),
        ("elsewhere", "there are: broken, prod, socks"),
        ("../prod", "is not the name of a context"),
        ("broken", "cannot be read as JSON"),
        ("socks", "uses socks_proxy, which is not supported"),
        ("-", "no context is selected"),
    ],
)
def test_a_context_that_cannot_be_used_says_why(home: Path, name: str, told: str) -> None:
    (home / "prod.json").write_text("{}")
    (home / "broken.json").write_text("{")
    (home / "socks.json").write_text('{"socks_proxy": "socks5://x"}')
    with pytest.raises(ConfigError) as caught:
        read_context(name, environ_of(home))
    assert told in str(caught.value)


def test_flags_win_over_the_context_and_the_context_over_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "prod.json").write_text('{"url": "nats://context", "token": "t0k"}')
    monkeypatch.setenv("NATS_URL", "nats://environment")
    session = Session({"context": "prod"})
    assert (session.settings().nats.url, session.settings().nats.token) == ("nats://context", "t0k")
    other = session.merged({"server": "nats://flag", "user": "u", "password": None})
    assert (other.settings().nats.url, other.settings().nats.user, other.settings().nats.token) == (
        "nats://flag",
        "u",
        None,
    )


def test_a_wrong_value_in_a_context_names_the_context(home: Path) -> None:
    (home / "prod.json").write_text('{"url": "ftp://x"}')
    with pytest.raises(ConfigError, match=r"the context prod \(.*prod\.json, key url\)"):
        Session({"context": "prod"}).settings()
