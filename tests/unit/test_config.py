"""Where settings come from, which one wins, and what a wrong one is told."""

import socket
from pathlib import Path

import pytest

from natscron.config import NatsSettings, ServiceSettings, Settings, load_settings, redact_url
from natscron.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cron.toml"
    path.write_text(text)
    return path


def test_nothing_given_means_the_documented_defaults() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.nats.url == "nats://localhost:4222"
    assert settings.service.instance_id == socket.gethostname()
    assert settings.service.jobs_bucket == "nats-cron-jobs"
    assert (settings.lease.duration_ms, settings.lease.max_skew_ms, settings.lease.grace_ms) == (2_000, 10_000, 10_000)
    assert settings.history.max_age_ms == 7 * 24 * 3_600_000


def test_file_loses_to_environment_and_environment_to_arguments(tmp_path: Path) -> None:
    path = written(tmp_path, '[nats]\nurl = "nats://file"\nname = "from-file"\n[log]\nlevel = "warn"\n')
    environ = {"NATSCRON_CONFIG": str(path), "NATS_URL": "nats://short", "LOG_LEVEL": "debug"}
    settings = load_settings(environ=environ, overrides={"log.level": "error", "nats.user": None})
    assert (settings.nats.url, settings.nats.name, settings.log.level) == ("nats://short", "from-file", "error")


def test_the_nested_variable_wins_over_the_short_one() -> None:
    settings = load_settings(environ={"NATSCRON_NATS__URL": "nats://nested", "NATS_URL": "nats://short"})
    assert settings.nats.url == "nats://nested"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings(environ={"NATS_URL": "", "NATSCRON_NATS__TOKEN": ""}) == Settings()


def test_a_file_given_wins_over_the_variable_that_names_one(tmp_path: Path) -> None:
    path = written(tmp_path, '[service]\nname = "mine"')
    settings = load_settings(file=path, environ={"NATSCRON_CONFIG": "/nowhere"})
    assert settings.service.name == "mine"


@pytest.mark.parametrize(
    ("text", "milliseconds"), [('"1m30s"', 90_000), ("45", 45_000), ("0.25", 250), ('"45"', 45_000), ("0", 0)]
)
def test_durations_are_go_text_or_seconds(tmp_path: Path, text: str, milliseconds: int) -> None:
    settings = load_settings(file=written(tmp_path, f"[service]\nshutdown_timeout = {text}"))
    assert settings.service.shutdown_timeout_ms == milliseconds


def test_names_follow_the_service_name_unless_given() -> None:
    service = load_settings(overrides={"service.name": "billing", "service.state_bucket": "kept"}).service
    assert (service.prefix, service.jobs_bucket, service.state_bucket, service.log_stream) == (
        "billing",
        "billing-jobs",
        "kept",
        "BILLING_LOG",
    )
    assert ServiceSettings(name="billing").prefix == "billing"


def test_variables_become_numbers_flags_and_lists() -> None:
    settings = load_settings(
        environ={
            "NATSCRON_NATS__REPLICAS": "3",
            "NATSCRON_SERVICE__MICRO": "false",
            "NATSCRON_JOBS__DENY": "payments.>, *.secret",
        }
    )
    assert (settings.nats.replicas, settings.service.micro, settings.jobs.deny) == (
        3,
        False,
        ("payments.>", "*.secret"),
    )


def test_the_grace_that_counts_is_never_shorter_than_the_lease_and_ten_seconds() -> None:
    settings = load_settings(overrides={"lease.duration": "30s", "lease.grace": "1s"})
    assert settings.lease.effective_grace_ms == 40_000


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"LOG_LEVEL": "loud"}, ["variable LOG_LEVEL", "'loud'", "one of debug, info, warn, error", "default info"]),
        ({"NATSCRON_LEASE__DURATION": "90s"}, ["NATSCRON_LEASE__DURATION", "'90s'", "from 500ms to 60s", "default 2s"]),
        ({"NATSCRON_LEASE__DURATION": "soon"}, ["NATSCRON_LEASE__DURATION", "'soon'", "a duration"]),
        ({"NATSCRON_LEASE__DURATION": "nan"}, ["'nan'", "a duration"]),
        ({"NATSCRON_LEASE__DURATION": "500100us"}, ["'500100us'", "a duration"]),
        ({"NATSCRON_NATS__REPLICAS": "many"}, ["NATSCRON_NATS__REPLICAS", "'many'", "from 1 to 5"]),
        ({"NATS_URL": "http://h"}, ["NATS_URL", "nats://, tls://"]),
        ({"NATS_URL": "ws://h,nats://h"}, ["NATS_URL", "nats://, tls://"]),
        ({"NATSCRON_JOBS__ALLOW": "a.>.b"}, ["'a.>.b'", "a list of subjects"]),
        ({"NATSCRON_JOBS__ALLOW": "te*"}, ["'te*'", "a list of subjects"]),
        ({"NATSCRON_NATS__CREDS": "/nowhere/x.creds"}, ["'/nowhere/x.creds'", "a readable file"]),
        ({"NATSCRON_SERVICE__NAME": "a b"}, ["'a b'", "A-Z a-z 0-9 _ -"]),
        ({"NATSCRON_SERVICE__NAME": "a\n"}, ["A-Z a-z 0-9 _ -"]),
    ],
)
def test_a_wrong_value_names_source_value_and_rule(environ: dict[str, str], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=environ)
    for part in told:
        assert part in str(caught.value)


def test_a_wrong_value_in_a_file_names_file_and_key(tmp_path: Path) -> None:
    path = written(tmp_path, "[history]\nper_job = -4")
    with pytest.raises(ConfigError, match=r"cron\.toml, table \[history\], key per_job: -4 is wrong"):
        load_settings(file=path)


def test_text_in_a_file_is_not_taken_for_a_number_unless_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="true or false"):
        load_settings(file=written(tmp_path, "[service]\nmicro = 7"))


def test_a_wrong_argument_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(ConfigError, match="the flag --server"):
        load_settings(overrides={"nats.url": "ftp://x"}, sources={"nats.url": "the flag --server"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[nats]\nurll = 'x'", "did you mean nats.url?"),
        ("[natz]\nurl = 'x'", "did you mean nats?"),
        ("[log]\nmax_age = 'x'", "did you mean history.max_age?"),
        ("nats = 1", "write [nats]"),
        ("[nats", "is not TOML"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(file=written(tmp_path, text))
    assert told in str(caught.value)


def test_a_misspelt_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean NATSCRON_NATS__URL"):
        load_settings(environ={"NATSCRON_NATS_URL": "nats://h"})


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        load_settings(file=tmp_path / "absent.toml")


def test_two_ways_to_authenticate_are_refused_with_both_sources() -> None:
    environ = {"NATSCRON_NATS__TOKEN": "t0k", "NATSCRON_NATS__USER": "u"}
    with pytest.raises(ConfigError, match=r"nats\.user from .*NATSCRON_NATS__USER and nats\.token from .*__TOKEN"):
        load_settings(environ=environ)


def test_an_argument_that_says_who_we_are_replaces_what_the_environment_said() -> None:
    nats = load_settings(environ={"NATSCRON_NATS__TOKEN": "t0k"}, overrides={"nats.user": "u"}).nats
    assert (nats.user, nats.token) == ("u", None)


@pytest.mark.parametrize(("key", "needs"), [("nats.password", "nats.user"), ("nats.tls_key", "nats.tls_cert")])
def test_half_of_a_pair_is_refused(tmp_path: Path, key: str, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"needs {needs}"):
        load_settings(overrides={key: str(written(tmp_path, "x"))})


def test_no_text_form_shows_a_secret() -> None:
    secret = "s3cret"  # noqa: S105 - what must not be seen
    settings = Settings(nats=NatsSettings(url=f"nats://u:{secret}@h,nats://{secret}@g", user="u", password=secret))
    for text in (repr(settings), str(settings), repr(settings.nats), f"{settings.nats}"):
        assert "s3cret" not in text
        assert "nats://***@h,nats://***@g" in text


@pytest.mark.parametrize("environ", [{"NATS_URL": "http://u:s3cret@h"}, {"NATSCRON_NATS__NKEY": "S" + "A" * 57}])
def test_no_error_shows_a_secret(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=environ)
    assert "s3cret" not in str(caught.value)
    assert "AAAA" not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://h:4222", "nats://h:4222"),
        ("nats://a:b@h", "nats://***@h"),
        ("nats://a:p@ss/w@h", "nats://***@h"),
        ("a:b@h:4222", "***@h:4222"),
        ("tls://t@h, tls://g", "tls://***@h,tls://g"),
        ("nats://a:p,x@h", "nats://***@h"),
    ],
)
def test_urls_are_shown_without_their_credentials(url: str, shown: str) -> None:
    assert redact_url(url) == shown
