"""JSON as the Go version reads it: keys in any case, null as the zero value, the last duplicate wins, nothing trailing.

The fast path is msgspec. Only when that fails is the input scanned a second time, for the text that a Go decoder would
give, so that clients of the Go version see the errors they know. Whatever the input, the only error that leaves this
module is :class:`~natscron.errors.MalformedInputError`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from natscron.errors import MalformedInputError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "as_object", "decode", "fold", "go_type_error", "normalise"]

MAX_BYTES: Final = 8 * 1024 * 1024
"""The most bytes that are looked at; NATS itself carries 1 MiB by default and 64 MiB at most."""
MAX_DEPTH: Final = 128
"""The deepest nesting of arrays and objects."""

_WHITESPACE: Final = b" \t\r\n"
_LITERALS: Final = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS: Final = re.compile(rb"[0-9]*")
_HEX: Final = b"0123456789abcdefABCDEF"


class _Broken(Exception):  # noqa: N818 - never leaves this module
    pass


def decode(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON value in ``data``. Raises MalformedInputError, with the text Go gives where it has one."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > max_bytes:
        raise MalformedInputError(f"JSON of {len(raw)} bytes is over the limit of {max_bytes}")
    try:
        value = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise MalformedInputError(f"invalid UTF-8: byte 0x{raw_byte(error)} cannot be decoded") from None
    except RecursionError:
        raise MalformedInputError(f"exceeded max depth: JSON may nest {MAX_DEPTH} deep at most") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedInputError(_explain(raw, str(error))) from None
    # Counting the brackets is far cheaper than walking, and only a document with many of them can be deep.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def raw_byte(error: UnicodeDecodeError) -> str:
    """The offending byte in two hexadecimal digits."""
    return f"{error.object[error.start]:02x}"


def normalise(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A Python value as JSON would carry it (tuples become lists, and so on). Raises MalformedInputError."""
    try:
        raw = msgspec.json.encode(value)
    except RecursionError:
        raise MalformedInputError(f"exceeded max depth: JSON may nest {MAX_DEPTH} deep at most") from None
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        raise MalformedInputError(f"not expressible as JSON: {error}") from None
    return decode(raw)


def as_object(value: Any, go_type: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """``value`` as an object; null is an empty one. Raises MalformedInputError naming ``go_type`` as Go does."""
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise MalformedInputError(f"json: cannot unmarshal {kind(value)} into Go value of type {go_type}")


def fold(fields: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """``fields`` under their canonical names: a key in ``known`` (lower case to canonical) matches in any case.

    Keys that are not known stay as they are. Of several spellings of one key the last in the input wins.
    """
    folded: dict[str, Any] = {}
    for key, value in fields.items():
        name = known.get(key)
        if name is None:
            name = known.get(key.lower(), key)
        folded[name] = value
    return folded


def go_type_error(value: Any, where: str, wanted: str) -> MalformedInputError:  # noqa: ANN401 - any JSON value
    """The error for a value of the wrong JSON type in the field ``where``, e.g. ``JobDefinition.subject``."""
    return MalformedInputError(f"json: cannot unmarshal {kind(value)} into Go struct field {where} of type {wanted}")


def kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """What Go calls the JSON type of ``value``."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, dict) else "null"


def _check_depth(value: Any) -> None:  # noqa: ANN401 - any JSON value
    level: list[Any] = [value]  # what is opened at one depth
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            children: Iterable[Any]
            if isinstance(item, dict):
                children = item.values()
            elif isinstance(item, list):
                children = item
            else:
                continue
            below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return
        level = below
    raise MalformedInputError(f"exceeded max depth: JSON may nest {MAX_DEPTH} deep at most")


def _explain(raw: bytes, reason: str) -> str:
    """The text a Go decoder gives for ``raw``, or ``reason`` when only our own reader minds."""
    try:
        _Scanner(raw).scan()
    except _Broken as error:
        return str(error)
    # A number out of range and half of a surrogate pair are sound to Go's scanner.
    return f"unreadable JSON: {reason}"


def _quote(byte: int) -> str:
    if byte == ord("'"):
        return r"'\''"
    if byte == ord('"'):
        return "'\"'"
    short = {0x07: "\\a", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r", 0x5C: "\\\\"}
    if byte in short:
        return f"'{short[byte]}'"
    char = chr(byte)
    return f"'{char}'" if char.isprintable() else f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"  # noqa: PLR2004 - ASCII ends there


class _Scanner:
    """Walks the input without recursion until something is wrong, and says what in Go's words."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def _byte(self) -> int:
        if self.at >= len(self.raw):
            raise _Broken("unexpected end of JSON input")
        return self.raw[self.at]

    def _refuse(self, context: str) -> _Broken:
        return _Broken(f"invalid character {_quote(self._byte())} {context}")

    def _skip(self) -> None:
        while self.at < len(self.raw) and self.raw[self.at] in _WHITESPACE:
            self.at += 1

    def scan(self) -> None:
        """Raise _Broken at the first fault."""
        stack: list[int] = []
        while True:
            self._skip()
            if self._value(stack):  # an array or object was opened and is not empty
                continue
            if not self._close(stack):
                break
        if self.at < len(self.raw):
            raise self._refuse("after top-level value")

    def _value(self, stack: list[int]) -> bool:
        byte = self._byte()
        if byte in b"[{":
            self.at += 1
            self._skip()
            if self._byte() == byte + 2:  # "]" and "}" lie two after their opening
                self.at += 1
                return False
            stack.append(byte)
            if byte == ord("{"):
                self._key()
            return True
        if byte == ord('"'):
            self._string()
        elif byte in b"-0123456789":
            self._number()
        elif byte in _LITERALS:
            self._literal(_LITERALS[byte])
        else:
            raise self._refuse("looking for beginning of value")
        return False

    def _close(self, stack: list[int]) -> bool:
        """After a value: whether another one follows."""
        while True:
            self._skip()
            if not stack:
                return False
            byte = self._byte()
            if byte == stack[-1] + 2:
                stack.pop()
                self.at += 1
                continue
            if byte != ord(","):
                raise self._refuse("after array element" if stack[-1] == ord("[") else "after object key:value pair")
            self.at += 1
            if stack[-1] == ord("{"):
                self._skip()
                self._key()
            return True

    def _key(self) -> None:
        if self._byte() != ord('"'):
            raise self._refuse("looking for beginning of object key string")
        self._string()
        self._skip()
        if self._byte() != ord(":"):
            raise self._refuse("after object key")
        self.at += 1

    def _string(self) -> None:
        self.at += 1
        while True:
            match = _PLAIN.match(self.raw, self.at)
            self.at = match.end() if match else self.at
            byte = self._byte()
            if byte == ord('"'):
                self.at += 1
                return
            if byte != ord("\\"):
                raise self._refuse("in string literal")
            self.at += 1
            if self._byte() == ord("u"):
                for _ in range(4):
                    self.at += 1
                    if self._byte() not in _HEX:
                        raise self._refuse("in \\u hexadecimal character escape")
            elif self._byte() not in b'bfnrt\\/"':
                raise self._refuse("in string escape code")
            self.at += 1

    def _digits(self, context: str) -> None:
        if self._byte() not in b"0123456789":
            raise self._refuse(context)
        match = _DIGITS.match(self.raw, self.at)
        self.at = match.end() if match else self.at

    def _number(self) -> None:
        if self._byte() == ord("-"):
            self.at += 1
        if self._byte() == ord("0"):
            self.at += 1
        else:
            self._digits("in numeric literal")
        if self.raw[self.at : self.at + 1] == b".":
            self.at += 1
            self._digits("after decimal point in numeric literal")
        if self.raw[self.at : self.at + 1] in {b"e", b"E"}:
            self.at += 1
            if self._byte() in b"+-":
                self.at += 1
            self._digits("in exponent of numeric literal")

    def _literal(self, word: bytes) -> None:
        for expected in word:
            if self._byte() != expected:
                raise self._refuse(f"in literal {word.decode()} (expecting '{chr(expected)}')")
            self.at += 1
