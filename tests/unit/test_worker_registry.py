"""Handlers by name."""

import functools

import pytest

from natscron import ValidationError
from natscron.worker.registry import GLOBAL, Registry, check_name, is_async


class Plain:
    def __call__(self, _event: object) -> None: ...

    async def later(self, _event: object) -> None: ...


class Later:
    async def __call__(self, _event: object) -> None: ...

    def plain(self, _event: object) -> None: ...

    @staticmethod
    async def static(_event: object) -> None: ...

    @classmethod
    async def of_class(cls, _event: object) -> None: ...


async def later(_event: object) -> None: ...


def plain(_event: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        (later, True),
        (plain, False),
        (lambda _event: None, False),
        (Plain(), False),
        (Plain().later, True),
        (Later(), True),
        (Later().plain, False),
        (Later().static, True),
        (Later.of_class, True),
        (functools.partial(later), True),
        (functools.partial(functools.partial(Later())), True),
        (functools.partial(plain), False),
        (print, False),
        (list, False),
    ],
)
def test_whether_a_handler_is_async_is_known_before_it_is_called(handler: object, *, found: bool) -> None:
    assert is_async(handler) is found  # type: ignore[arg-type]


def test_the_last_one_registered_counts_and_each_is_told() -> None:
    registry = Registry()
    changes: list[tuple[str, ...]] = []
    registry.on_change = lambda: changes.append(registry.names)
    assert (len(registry), registry.names, registry.find("a")) == (0, (), None)
    registry.set("a", plain)
    registry.set("a", later)
    registry.set(GLOBAL, plain)
    assert registry.find("a") == (later, True)
    assert registry.find(GLOBAL) == (plain, False)
    assert changes == [("a",), ("a",), ("a", "")]
    assert len(registry) == 2


def test_runs_for_a_global_handler_may_be_taken_without_one() -> None:
    registry = Registry()
    registry.set("a", plain)
    registry.takes_global = True
    assert registry.names == (GLOBAL, "a")
    assert registry.find(GLOBAL) is None
    registry.set(GLOBAL, plain)
    assert sorted(registry.names) == [GLOBAL, "a"]


@pytest.mark.parametrize("name", ["a", "a.b:c/d_e-f", "X" * 255, "7"])
def test_names_are_plain_words(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "ü", "X" * 256, "a\n", "a;b", None, 7])
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ValidationError, match="handler name"):
        check_name(name)  # type: ignore[arg-type]


def nothing() -> None: ...


def two(_event: object, _more: object) -> None: ...


async def named(*, event: object) -> None: ...


@pytest.mark.parametrize("handler", ["text", None, nothing, two, named, functools.partial(plain, 1), lambda: None])
def test_what_cannot_be_called_with_the_event_is_refused(handler: object) -> None:
    registry = Registry()
    with pytest.raises(ValidationError, match="one argument, the event, as in def work"):
        registry.set(GLOBAL, handler)  # type: ignore[arg-type]
    assert len(registry) == 0


@pytest.mark.parametrize("handler", [print, list, functools.partial(two, _more=1), lambda *_all: None, Plain()])
def test_what_may_be_called_with_the_event_is_taken(handler: object) -> None:
    registry = Registry()
    registry.set(GLOBAL, handler)  # type: ignore[arg-type]
    assert registry.find(GLOBAL) == (handler, False)
