"""The page on clock changes says what the code does."""

import datetime as dt

import pytest
from tests.support.cron_oracle import Oracle
from tests.tutorial.dst_table import FOLD_CASES, GAP_CASES, PAGE, Case, slots, written


def test_the_tables_of_the_page_are_what_the_code_does() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run: python -m tests.tutorial.dst_table"


@pytest.mark.parametrize("case", [*GAP_CASES, *FOLD_CASES], ids=lambda case: f"case {case.number}")
def test_the_oracle_agrees_with_every_cell(case: Case) -> None:
    gap = case in GAP_CASES
    change = round(dt.datetime.fromisoformat(case.change).timestamp())
    around = case.hours * 3600
    oracle = Oracle(case.cron, case.zone)
    for value in ("run_after", "skip", "shift", None) if gap else ("first", "last", "both", None):
        chosen = {"dst_gap" if gap else "dst_fold": value} if value else {}
        shown = slots(case, **chosen)
        counted = oracle.count(change - around - 1, change + around, value if gap else None, None if gap else value)
        assert shown.count("Z") == counted


def test_every_case_tells_something() -> None:
    for case in GAP_CASES:
        assert len({slots(case, dst_gap=value) for value in ("run_after", "skip", "shift")}) > 1, case
    for case in FOLD_CASES:
        assert len({slots(case, dst_fold=value) for value in ("first", "last", "both")}) > 1, case


def test_the_table_on_others_has_a_source_for_each_of_them() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| **") and "this page" not in line]
    assert len(rows) == 7
    for row in rows:
        assert row.count("|") == 7
        assert "https://" in row.split("|")[6]
