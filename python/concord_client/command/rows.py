# SPDX-License-Identifier: Apache-2.0
"""Rows out of CSV and JSON, one at a time: a file may be larger than memory, and a bad row does not end it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from concord_client import MAX_MESSAGE_BYTES, ConcordError, Feature, Value, Violation
from concord_client._errors import refusal
from concord_client._values import quote
from concord_client.command.failure import FailedError, UnfitError
from concord_client.command.screen import visible
from concord_client.command.suggestion import did_you_mean
from concord_client.command.value import UnreadableError, expected, read_json, read_text

# Nothing longer fits into a message.
_LONGEST = MAX_MESSAGE_BYTES
_MOST_VIOLATIONS = 16
_PIECE = 1 << 16
_BLANK = re.compile(r"[ \t\r\n]*")
# A literal or an escape that the end of what has been read cuts in two is shorter.
_CUT = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    number: int
    """From 1; a CSV's header does not count."""
    line: int
    """Where it begins in the file, from 1."""
    size: int
    """About how many bytes it takes."""
    features: dict[str, Value]
    problem: ConcordError | None = None
    """Why it cannot be sent."""
    kept: tuple[str, ...] = ()
    """The cells that are copied to the output."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read."""

    model_id: str
    features: Mapping[str, Feature] | None
    """The model's features; None where the server tells nothing of them."""
    ignore_unknown: bool = False
    """Columns and keys that the model does not have are left out. Otherwise they are errors."""
    delimiter: str = ","
    keep: Sequence[str] = ()
    """Columns of a CSV that are copied to the output."""


def unknown_feature(name: str, features: Mapping[str, Feature]) -> str:
    """What is wrong with a name that the model does not have."""
    return f"feature {quote(name)}: the model has no such feature{did_you_mean(name, features)}"


@dataclass(slots=True)
class _Problems:
    """What is wrong with one row."""

    model_id: str
    reason: str = ""
    violations: list[Violation] = field(default_factory=list)

    def add(self, reason: str, name: str, text: str) -> None:
        self.reason = self.reason or reason
        if len(self.violations) < _MOST_VIOLATIONS:
            self.violations.append(Violation(_encodable(f"features[{quote(name)}]"), _encodable(text)))

    def error(self) -> ConcordError | None:
        if not self.violations:
            return None
        return refusal(self.reason, self.violations, {"model_id": self.model_id})


def _malformed(text: str, model_id: str) -> ConcordError:
    return refusal("REQUEST_MALFORMED", [Violation("", text)], {"model_id": model_id})


def text_of(stream: IO[bytes]) -> io.TextIOWrapper:
    """A file's text. Bytes that are no UTF-8 become surrogates, so that only their row is bad."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


# --- CSV -------------------------------------------------------------------------------------------------------------


def csv_rows(text: io.TextIOWrapper, reading: Reading) -> Iterator[Row]:
    """The rows of a CSV whose header names the features.

    Arrays are JSON in a cell. An empty cell is the empty text for a text feature, and not given for any other.

    Raises UnfitError where the header does not fit the model, before there is a row; FailedError in a line without end.
    """
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(_lines(text), delimiter=reading.delimiter, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise UnfitError(f"the header is no CSV: {error}") from error
    if header is None:
        raise UnfitError("the file is empty: expected a header with the features' names")
    columns = _columns(header, reading)
    kept = [header.index(name) for name in reading.keep]
    # Not a generator itself, so that a bad header is told at the call.
    return _cells(reader, len(header), columns, kept, reading)


def _cells(
    reader: Any, width: int, columns: Sequence[tuple[int, str, Feature | None]], kept: Sequence[int], reading: Reading
) -> Iterator[Row]:
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield Row(number, line, 0, {}, _malformed(f"no CSV: {error}", reading.model_id), ("",) * len(kept))
            continue
        if not cells:
            continue  # an empty line
        number += 1
        size = sum(map(len, cells))
        copied = tuple(_encodable(cells[i]) if i < len(cells) else "" for i in kept)
        if len(cells) != width:
            text = f"expected {width} cells, got {len(cells)}"
            yield Row(number, line, size, {}, _malformed(text, reading.model_id), copied)
            continue
        features: dict[str, Value] = {}
        problems = _Problems(reading.model_id)
        for i, name, feature in columns:
            text = cells[i]
            if not text and (feature is None or feature.shape or feature.type != "STRING"):
                continue
            try:
                if not text.isascii():
                    text.encode()
                features[name] = read_text(text, feature)
            except UnicodeEncodeError:
                problems.add("REQUEST_MALFORMED", name, f"feature {quote(name)}: expected UTF-8, got other bytes")
            except UnreadableError as error:
                problems.add("FEATURE_TYPE_MISMATCH", name, f"feature {quote(name)}: {error}")
        yield Row(number, line, size, features, problems.error(), copied)


def _columns(header: Sequence[str], reading: Reading) -> list[tuple[int, str, Feature | None]]:
    """Index, name and feature of each column that is sent."""
    problems: list[str] = []
    columns: list[tuple[int, str, Feature | None]] = []
    features = reading.features
    for i, name in enumerate(header):
        if not name and (features is None or "" not in features):
            if not reading.ignore_unknown:
                problems.append(f"column {i + 1} has no name (pandas writes such an index: to_csv(index=False))")
        elif header.index(name) != i:
            problems.append(f"column {quote(name)} is there twice")
        elif features is None:
            columns.append((i, name, None))
        elif name in features:
            columns.append((i, name, features[name]))
        elif not reading.ignore_unknown and name not in reading.keep:
            problems.append(f"column {quote(name)}: the model has no such feature{did_you_mean(name, features)}")
    problems += [
        f"--keep {quote(name)}: no such column{did_you_mean(name, header)}"
        for name in reading.keep
        if name not in header
    ]
    for feature in (features or {}).values():
        if feature.required and feature.name not in header:
            problems.append(f"no column {quote(feature.name)}: the model needs {expected(feature)}")
    if problems:
        raise UnfitError(visible(_header_advice(problems, header, reading), lines=True))
    return columns


def _header_advice(problems: list[str], header: Sequence[str], reading: Reading) -> str:
    shown = problems[:_MOST_VIOLATIONS]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    text = "the file's header does not fit the model:\n  " + "\n  ".join(shown)
    if len(header) == 1 and reading.delimiter == ",":
        for delimiter, name in ((";", "';'"), ("\t", "tab")):
            if delimiter in header[0]:
                return f"{text}\nThe cells seem to be parted otherwise: --delimiter {name}"
    if any("no such feature" in problem or "no name" in problem for problem in problems):
        text += "\n--ignore-unknown leaves out columns that the model does not have."
    return text


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise FailedError(f"a line is longer than {_LONGEST} bytes: no request can be")
        yield line


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def delimiter(text: str) -> str:
    """The character that a --delimiter stands for: itself, "tab" or an escape. Raises ValueError."""
    if text == "tab":
        return "\t"
    if len(text) > 1 and text.startswith("\\"):
        text = codecs.decode(text, "unicode_escape")
    if len(text) != 1 or text in '"\r\n':
        raise ValueError(f"expected one character or tab, got {text!r}")
    return text


# --- JSON ------------------------------------------------------------------------------------------------------------


def json_rows(text: io.TextIOWrapper, reading: Reading) -> Iterator[Row]:
    """The rows of JSON Lines, of one object, of several in a row, or of an array of objects. null is not given.

    Raises FailedError where an array breaks off: then nobody knows where the next row begins.
    """
    for number, (line, size, value) in enumerate(_values(text), 1):
        yield _json_row(number, line, size, value, reading)


class _Twice(str):
    """Stands for an object that has this key twice."""


class _Broken(str):
    """Stands for a text that is no JSON: what is wrong with it."""


def _json_row(number: int, line: int, size: int, value: Any, reading: Reading) -> Row:
    if not isinstance(value, dict):
        if isinstance(value, _Twice):
            text = f"{_encodable(quote(value))} is there twice"
        elif isinstance(value, _Broken):
            text = f"no JSON: {value}"
        else:
            text = f"expected an object of features, got {_json_kind(value)}"
        return Row(number, line, size, {}, _malformed(text, reading.model_id))
    features: dict[str, Value] = {}
    problems = _Problems(reading.model_id)
    known = reading.features
    for name, element in value.items():
        if known is not None and name not in known:
            if not reading.ignore_unknown:
                problems.add("FEATURE_UNKNOWN", name, unknown_feature(name, known))
        elif isinstance(element, (dict, _Twice)):
            problems.add("FEATURE_TYPE_MISMATCH", name, f"feature {quote(name)}: expected a value, got an object")
        elif element is not None:
            features[name] = read_json(element, known[name] if known else None)
    return Row(number, line, size, features, problems.error())


def _json_kind(value: Any) -> str:
    kinds: dict[type, str] = {str: "a text", list: "an array", bool: "a bool", type(None): "null"}
    return kinds.get(type(value), "a number")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    return next(_Twice(key) for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _values(text: io.TextIOWrapper) -> Iterator[tuple[int, int, Any]]:
    """The values of a stream of JSON, each with its first line and its length."""
    buffer = _Buffer(text)
    buffer.skip_blank()
    if buffer.at("["):
        yield from _elements(buffer)
        return
    while not buffer.ended():
        start, line = buffer.consumed, buffer.line
        value = buffer.decode()
        if isinstance(value, _Broken):
            buffer.skip_broken()
        yield line, buffer.consumed - start, value
        buffer.skip_blank()


def _elements(buffer: _Buffer) -> Iterator[tuple[int, int, Any]]:
    buffer.take(1)
    buffer.skip_blank()
    first = True
    while not buffer.at("]"):
        if not first:
            if not buffer.at(","):
                raise FailedError(f"line {buffer.line}: the array of rows breaks off: expected , or ]")
            buffer.take(1)
            buffer.skip_blank()
        first = False
        start, line = buffer.consumed, buffer.line
        value = buffer.decode()
        if isinstance(value, _Broken):
            raise FailedError(f"line {line}: the array of rows breaks off: {value}")
        yield line, buffer.consumed - start, value
        buffer.skip_blank()
    buffer.take(1)
    buffer.skip_blank()
    if not buffer.ended():
        raise FailedError(f"line {buffer.line}: expected nothing behind the array of rows")


def _beyond(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


class _Buffer:
    """A window on a text of any length."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._held = ""
        self._at = 0
        self.consumed = 0
        self.line = 1
        self._decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(object_pairs_hook=_object).raw_decode

    def at(self, character: str) -> bool:
        return not self.ended() and self._held[self._at] == character

    def ended(self) -> bool:
        return self._at == len(self._held) and not self._more()

    def take(self, count: int) -> None:
        self.line += self._held.count("\n", self._at, self._at + count)
        self._at += count
        self.consumed += count

    def skip_blank(self) -> None:
        while not self.ended():
            match = _BLANK.match(self._held, self._at)
            if match is None or not match[0]:
                return
            self.take(len(match[0]))

    def decode(self) -> Any:
        """The value that begins here; a _Broken where there is none."""
        while True:
            held = len(self._held) - self._at
            try:
                value, end = self._decode(self._held, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._held) - _CUT
                problem = _Broken(error.msg)
            except (ValueError, RecursionError) as error:
                cut, problem = False, _Broken(_beyond(error))
            else:
                self.take(end - self._at)
                return value
            if held > _LONGEST:
                raise FailedError(f"line {self.line}: a row is longer than {_LONGEST} bytes: no request can be")
            # Twice as much each time: a row of many lines is not read anew at each of them.
            if not cut or not self._more(held):
                return problem

    def skip_broken(self) -> None:
        """Leaves out what is no JSON: the line, and those that continue it, being indented or closing a bracket."""
        while not self.ended():
            found = self._held.find("\n", self._at)
            self.take((found + 1 if found >= 0 else len(self._held)) - self._at)
            if found >= 0 and not self.ended() and self._held[self._at] not in " \t\r\n}]":
                return

    def _more(self, least: int = 1) -> bool:
        """Reads at least so many characters more, where there are any; a line at a time, as they come in."""
        pieces = [self._held[self._at :]]
        read = 0
        while read < least and (piece := self._text.readline(_PIECE)):
            pieces.append(piece)
            read += len(piece)
        self._held = "".join(pieces)
        self._at = 0
        return read > 0
