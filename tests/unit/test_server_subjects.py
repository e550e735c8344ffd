"""Which subjects a job may publish to, and what patterns match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.errors import ConfigError, InvalidSubjectError
from natscron.server.subjects import SubjectPolicy, go_accepts, match, matcher


@pytest.fixture
def policy() -> SubjectPolicy:
    return SubjectPolicy.for_service("nats-cron")


@pytest.mark.parametrize(
    "subject", ["a", "a.b", "orders.daily", "grüße.täglich", "a$b", "nats-cron.foo", "a:b", "A_B-c/d=e"]
)
def test_an_ordinary_subject_is_allowed(policy: SubjectPolicy, subject: str) -> None:
    assert policy.refusal(subject) is None


@pytest.mark.parametrize(
    ("subject", "rule"),
    [
        ("", "job subject is required"),
        ("$SYS.x", "'$'"),
        ("$JS.API.STREAM.DELETE.x", "'$'"),
        ("$KV.b.k", "'$'"),
        ("$own", "'$'"),
        ("_INBOX.a", "_INBOX"),
        ("_INBOXES", "_INBOX"),
        ("nats-cron.jobs.create", "reserved"),
        ("nats-cron.jobs.delete.pattern", "reserved"),
        ("nats-cron.status", "reserved"),
        ("nats-cron.log.a.b", "reserved"),
        ("nats-cron.runs.get", "reserved"),
        ("nats-cron.cluster.info", "reserved"),
        ("a.*", "wildcard"),
        ("a.>", "wildcard"),
        ("te*st", "wildcard"),
        (".a", "empty token"),
        ("a.", "empty token"),
        ("a..b", "empty token"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("a\r\nPUB x 0", "white space"),
        ("a\x00b", "control"),
        ("a\u2028b", "white space"),
        ("a\ud800b", "control"),
        ("x" * 513, "512"),
        ("ü" * 300, "512"),
    ],
)
def test_a_subject_that_could_do_harm_is_refused_with_the_rule(policy: SubjectPolicy, subject: str, rule: str) -> None:
    with pytest.raises(InvalidSubjectError) as caught:
        policy.check(subject)
    assert rule in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_another_prefix_reserves_its_own_subjects_and_frees_the_default_ones() -> None:
    policy = SubjectPolicy.for_service("team.cron")
    assert policy.refusal("nats-cron.jobs.create") is None
    assert policy.refusal("team.cron.jobs.create") is not None


def test_deny_wins_over_allow_and_everything_else_is_refused() -> None:
    policy = SubjectPolicy.for_service("nats-cron", allow=["orders.>", "ticks"], deny=["orders.secret.*"])
    assert policy.refusal("orders.eu.daily") is None
    assert policy.refusal("ticks") is None
    assert "denied" in str(policy.refusal("orders.secret.x"))
    assert "not allowed" in str(policy.refusal("orders"))
    assert "not allowed" in str(policy.refusal("billing"))


def test_an_allowed_pattern_never_opens_a_reserved_subject() -> None:
    policy = SubjectPolicy.for_service("nats-cron", allow=[">"])
    for subject in ("$SYS.a", "_INBOX.a", "nats-cron.jobs.list"):
        assert policy.refusal(subject) is not None


def test_a_broken_list_entry_names_its_option() -> None:
    with pytest.raises(ConfigError, match="option deny"):
        SubjectPolicy(deny=["a.>.b"])


@pytest.mark.parametrize(
    ("pattern", "subject", "hit"),
    [
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        (">", "a", True),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.b", "a.b", True),
        ("a.b", "aXb", False),
        ("a.*", "a.b\n", True),
        ("*.>", "a", False),
    ],
)
def test_patterns_match_as_nats_matches(pattern: str, subject: str, *, hit: bool) -> None:
    assert match(pattern, subject) is hit


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.>.b", "te*", "a.b>", "a b", "x" * 600])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSubjectError):
        matcher(pattern)


tokens = st.text(alphabet="ab", min_size=1, max_size=2)


@given(
    st.lists(st.one_of(tokens, st.just("*")), min_size=1, max_size=4),
    st.lists(tokens, min_size=1, max_size=5),
    st.booleans(),
)
def test_matching_agrees_with_a_token_by_token_walk(pattern: list[str], subject: list[str], tail: bool) -> None:  # noqa: FBT001 - drawn
    whole = [*pattern, ">"] if tail else pattern
    expected = (len(subject) > len(pattern) if tail else len(subject) == len(pattern)) and all(
        p in ("*", s) for p, s in zip(pattern, subject, strict=False)
    )
    assert match(".".join(whole), ".".join(subject)) is expected


@given(st.text())
def test_any_text_gets_a_verdict_and_an_allowed_one_is_safe_on_the_wire(subject: str) -> None:
    policy = SubjectPolicy.for_service("nats-cron")
    if policy.refusal(subject) is None:
        raw = subject.encode()
        assert not set(raw) & set(b" \t\r\n\x00*>")
        assert raw[:1] != b"$"


def test_the_go_versions_key_rule_is_known() -> None:
    assert go_accepts("a.b-c/d=e_F")
    assert not go_accepts("a b")
    assert not go_accepts("$a")
    assert not go_accepts(".a")
    assert not go_accepts("")
