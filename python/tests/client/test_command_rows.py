# SPDX-License-Identifier: Apache-2.0
"""Rows out of CSV and JSON, values out of text, answers into text: without a server."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from concord_client import Feature
from concord_client.command import rows as rows_module
from concord_client.command.connection import Duration
from concord_client.command.failure import FailedError, UnfitError
from concord_client.command.results import json_text, shortest
from concord_client.command.rows import Reading, Row, csv_rows, delimiter, json_rows, text_of
from concord_client.command.screen import visible
from concord_client.command.suggestion import did_you_mean, nearest
from concord_client.command.value import UnreadableError, read_json, read_text
from concord_proto.inference.v1 import model_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st


def feature(name: str, kind: str, *shape: int, required: bool = True) -> Feature:
    return Feature(name, kind, shape, required, None, 0, "", model_pb2.Feature())


FEATURES = [
    feature("f", "FLOAT"),
    feature("d", "DOUBLE", required=False),
    feature("i", "INT64", required=False),
    feature("b", "BOOL", required=False),
    feature("s", "STRING", required=False),
    feature("a", "FLOAT", -1, required=False),
]
READING = Reading("m", {each.name: each for each in FEATURES})


def from_csv(text: str | bytes, reading: Reading = READING) -> list[Row]:
    data = text.encode() if isinstance(text, str) else text
    return list(csv_rows(text_of(io.BytesIO(data)), reading))


def from_json(text: str | bytes, reading: Reading = READING) -> list[Row]:
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return list(json_rows(text_of(io.BytesIO(data)), reading))


def problem(row: Row) -> str:
    assert row.problem is not None
    assert row.problem.code.name == "INVALID_ARGUMENT"
    assert row.problem.metadata == {"model_id": "m"}
    return f"{row.problem.reason}: {row.problem.message}"


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1.5", "FLOAT", 1.5),
        (" 1e3 ", "DOUBLE", 1000.0),
        ("-inf", "FLOAT", -math.inf),
        ("Infinity", "DOUBLE", math.inf),
        ("9223372036854775807", "INT64", 2**63 - 1),
        ("-5.0", "INT64", -5),
        ("1e3", "INT64", 1000),
        ("true", "BOOL", True),
        ("False", "BOOL", False),
        ("1", "BOOL", True),
        ("", "STRING", ""),
        ("[1]", "STRING", "[1]"),
    ],
)
def test_text_is_read_by_type(text: str, kind: str, value: Any) -> None:
    got = read_text(text, feature("x", kind))
    assert (got, type(got)) == (value, type(value))


def test_nan_is_a_number() -> None:
    got = read_text("nan", feature("x", "FLOAT"))
    assert isinstance(got, float)
    assert math.isnan(got)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("abc", "FLOAT", 'expected a number, got "abc"'),
        ("1_0", "DOUBLE", 'expected a number, got "1_0"'),
        ("", "FLOAT", 'expected a number, got ""'),
        ("1.5", "INT64", 'expected an integer, got "1.5"'),
        ("inf", "INT64", 'expected an integer, got "inf"'),
        ("9007199254740993.0", "INT64", "expected an integer"),  # a double would have made it ...992
        ("9" * 5000, "INT64", "expected an integer"),
        ("yes", "BOOL", 'expected true or false, got "yes"'),
    ],
)
def test_text_that_is_no_value(text: str, kind: str, message: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text(text, feature("x", kind))
    assert message in str(caught.value)


def test_arrays_are_json() -> None:
    assert read_text("[1, 2.5]", feature("x", "FLOAT", 2)) == [1, 2.5]
    assert read_text("[[1, 2], [3, 4]]", feature("x", "INT64", 2, 2)) == [[1, 2], [3, 4]]
    assert read_text('["a", ""]', feature("x", "STRING", -1)) == ["a", ""]
    assert read_text('["NaN", -Infinity]', feature("x", "DOUBLE", 2))[1] == -math.inf  # type: ignore[index]
    for text in ("1", "[1", "{}", "[" * 100_000, '"a"', "1,2"):
        with pytest.raises(UnreadableError, match=r"expected a JSON array such as \[1, 2\], got"):
            read_text(text, feature("x", "FLOAT", 2))


def test_without_a_type_text_is_what_json_makes_of_it() -> None:
    assert [read_text(text, None) for text in ("1", "1.5", "true", "[1]", "abc", "inf", "{}", "null", '"q"')] == [
        1, 1.5, True, [1], "abc", math.inf, "{}", "null", '"q"',
    ]  # fmt: skip


def test_json_has_numbers_that_json_has_not() -> None:
    assert read_json("-Infinity", feature("x", "FLOAT")) == -math.inf
    assert read_json("Infinity", feature("x", "STRING")) == "Infinity"
    assert read_json([["Infinity"]], feature("x", "DOUBLE", 1, 1)) == [[math.inf]]


@given(st.floats(width=32, allow_nan=False))
@example(3.4028234663852886e38)
@example(1.401298464324817e-45)
def test_the_shortest_decimal_is_the_same_float32(value: float) -> None:
    short = shortest(value)
    assert struct.pack("<f", short) == struct.pack("<f", value)
    assert len(repr(short)) <= len(repr(value))


def test_json_text_is_json() -> None:
    text = json_text({"a": [math.nan, math.inf, -math.inf, 0.1], "\x1b\x9b": "é"})
    assert json.loads(text) == {"a": ["NaN", "Infinity", "-Infinity", 0.1], "\x1b\x9b": "é"}
    assert "\x9b" not in text
    assert "é" in text


def test_visible() -> None:
    assert visible("a\x1b[31m\n\t\u202eb é 漢") == "a\\x1b[31m\\n\\t\\u202eb é 漢"
    assert visible("a\nb", lines=True) == "a\nb"


def test_the_nearest_name() -> None:
    names = ["mean radius", "mean texture", "radius error"]
    assert nearest("mean radios", names) == "mean radius"
    assert nearest("Mean_Radius", names) == "mean radius"
    assert did_you_mean("zzz", names) == ""
    assert did_you_mean("x" * 1_000_000, names) == ""
    assert did_you_mean("meantexture", names) == '; did you mean "mean texture"?'


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600)])
def test_a_duration(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_a_csv() -> None:
    text = '\ufefff,s,a,b\r\n1,x,"[1, 2]",true\r\n\r\n2,"a,\n""b""",,\r\n'
    got = from_csv(text)
    assert [(row.number, row.line) for row in got] == [(1, 2), (2, 4)]
    # An empty cell is the empty text for text, and not given for others.
    assert [row.features for row in got] == [
        {"f": 1.0, "s": "x", "a": [1, 2], "b": True},
        {"f": 2.0, "s": 'a,\n"b"'},
    ]
    assert [row.problem for row in got] == [None, None]
    assert from_csv("f,s\n1,\n")[0].features == {"f": 1.0, "s": ""}


def test_bad_rows_of_a_csv_do_not_end_it() -> None:
    got = from_csv(b'f,i,s\n1,2\n1,2,3,4\nx,y,z\n1,1,"a"b\n1,1,\xff\n9,9,last\n')
    assert [problem(row) for row in got[:-1]] == [
        "REQUEST_MALFORMED: expected 3 cells, got 2",
        "REQUEST_MALFORMED: expected 3 cells, got 4",
        'FEATURE_TYPE_MISMATCH: feature "f": expected a number, got "x" (and 1 more)',
        "REQUEST_MALFORMED: no CSV: ',' expected after '\"'",
        'REQUEST_MALFORMED: feature "s": expected UTF-8, got other bytes',
    ]
    assert (got[-1].number, got[-1].line, got[-1].features) == (6, 7, {"f": 9.0, "i": 9, "s": "last"})


def test_a_quote_that_never_closes() -> None:
    [row] = from_csv('f,s\n1,"abc\n2,d\n')
    assert problem(row) == "REQUEST_MALFORMED: no CSV: unexpected end of data"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("f,F\n", 'column "F": the model has no such feature; did you mean "f"?'),
        ("f,f\n", 'column "f" is there twice'),
        ("i,s\n", 'no column "f": the model needs a number'),
        (",f\n", "column 1 has no name"),
        ("f,zzzz\n", "--ignore-unknown leaves out columns"),
        ("f;i;s\n", "--delimiter ';'"),
        ("f\ti\n", "--delimiter tab"),
        ('"f\n', "the header is no CSV"),
        (",".join(f"column {i}" for i in range(100)), "and 85 more"),
    ],
)
def test_a_header_that_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(UnfitError) as caught:
        csv_rows(text_of(io.BytesIO(text.encode())), READING)  # at the call, before there is a row
    assert message in caught.value.message


def test_columns_that_the_model_does_not_have() -> None:
    reading = Reading("m", READING.features, ignore_unknown=True, keep=("id", "f"))
    got = from_csv(b"id,,f,target\nrow \xff,0,1,yes\n2\n", reading)
    assert [(row.features, row.kept) for row in got] == [({"f": 1.0}, ("row ?", "1")), ({}, ("2", ""))]
    # One that is kept need not be ignored.
    assert from_csv("id,f\n7,1\n", Reading("m", READING.features, keep=("id",)))[0].kept == ("7",)
    with pytest.raises(UnfitError, match='--keep "idd": no such column; did you mean "id"'):
        from_csv("id,f\n7,1\n", Reading("m", READING.features, ignore_unknown=True, keep=("idd",)))


def test_other_delimiters() -> None:
    assert [delimiter(text) for text in (";", "tab", "\\t", "|")] == [";", "\t", "\t", "|"]
    for text in ("", ";;", "\n", '"', "\\x"):
        with pytest.raises(ValueError):
            delimiter(text)
    assert from_csv("f;s\n1;a,b\n", Reading("m", READING.features, delimiter=";"))[0].features["s"] == "a,b"


def test_a_csv_without_a_catalog() -> None:
    assert from_csv("x,y\n1,abc\n", Reading("m", None))[0].features == {"x": 1, "y": "abc"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=32), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
)
def test_any_csv_comes_out_as_it_went_in(values: list[tuple[float, str]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["f", "s"])
    writer.writerows(values)
    got = from_csv(out.getvalue())
    assert [(repr(row.features["f"]), row.features["s"]) for row in got] == [(repr(f), s) for f, s in values]


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"f": 1, "s": "x"}\n{"f": 2, "s": null}\n',
        '{"f": 1, "s": "x"} {"f": 2}',
        '[{"f": 1, "s": "x"}, {"f": 2}]',
        ' [ {"f":1,"s":"x"}\n,\n{"f":2} ] \n',
        json.dumps([{"f": 1, "s": "x"}, {"f": 2, "s": None}], indent=4),
        '\ufeff{\n  "f": 1,\n  "s": "x"\n}\n\n{\n  "f": 2\n}\n',
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_rows_of_json(text: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_PIECE", piece)
    got = from_json(text)
    assert [(row.number, row.features, row.problem) for row in got] == [
        (1, {"f": 1, "s": "x"}, None),
        (2, {"f": 2}, None),
    ]


@pytest.mark.parametrize("text", ["", " \n ", "[]", "[ ]\n"])
def test_no_rows_of_json(text: str) -> None:
    assert from_json(text) == []


def test_bad_rows_of_json_do_not_end_it() -> None:
    text = b"""\
{"f": 1, "s": "cut
garbage
{"f": 1, "f": 2}
{"f": 1, "F": 2}
{
  "f": 1, oops,
  "s": "x"
}
[1]
"f"
{"f": {"value": 1}}
{"f": 1, "s": "\xff"}
{"\\udcff": 1}
{"f": 1, "i": %s}
{"f": %s}
{"f": 9}
""" % (b"9" * 5000, b"[" * 100_000)
    got = from_json(text)
    assert [problem(row) for row in got if row.problem] == [
        "REQUEST_MALFORMED: no JSON: Invalid control character at",
        "REQUEST_MALFORMED: no JSON: Expecting value",
        'REQUEST_MALFORMED: "f" is there twice',
        'FEATURE_UNKNOWN: feature "F": the model has no such feature; did you mean "f"?',
        "REQUEST_MALFORMED: no JSON: Expecting property name enclosed in double quotes",
        "REQUEST_MALFORMED: expected an object of features, got an array",
        "REQUEST_MALFORMED: expected an object of features, got a text",
        'FEATURE_TYPE_MISMATCH: feature "f": expected a value, got an object',
        'FEATURE_UNKNOWN: feature "?": the model has no such feature',
        "REQUEST_MALFORMED: no JSON: a number of too many digits",
        "REQUEST_MALFORMED: no JSON: nested too deeply",
    ]
    assert [(row.number, row.line) for row in got] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 9), (7, 10), (8, 11), (9, 12), (10, 13), (11, 14), (12, 15),
        (13, 16),
    ]  # fmt: skip
    assert got[8].features == {"f": 1, "s": "\udcff"}  # the client refuses it
    assert got[-1].features == {"f": 9}


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        ('[{"f": 1}\n{"f": 2}]', 1, "line 2: the array of rows breaks off: expected , or ]"),
        ('[{"f": 1},\n{"f": }]', 1, "line 2: the array of rows breaks off: Expecting value"),
        ('[{"f": 1}', 1, "line 1: the array of rows breaks off: expected , or ]"),
        ('[{"f": 1}]\n{"f": 2}', 1, "line 2: expected nothing behind the array of rows"),
        ('[{"f": 1},', 1, "breaks off"),
    ],
)
def test_an_array_that_breaks_off(text: str, rows: int, message: str) -> None:
    got = []

    def read() -> None:
        for row in json_rows(text_of(io.BytesIO(text.encode())), READING):
            got.append(row)

    with pytest.raises(FailedError) as caught:
        read()
    assert len(got) == rows
    assert message in caught.value.message


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)
_objects = st.lists(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _json_values, max_size=4), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(_objects, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_any_json_comes_out_as_it_went_in(objects: list[dict[str, Any]], indent: Any, array: bool, piece: int) -> None:
    before, rows_module._PIECE = rows_module._PIECE, piece
    try:
        text = json.dumps(objects, indent=indent) if array else "\n".join(json.dumps(o, indent=indent) for o in objects)
        got = from_json(text, Reading("m", None))
    finally:
        rows_module._PIECE = before
    assert [row.features for row in got] == [
        {name: value for name, value in each.items() if value is not None} for each in objects
    ]


class Endless(io.RawIOBase):
    """A file that is made while it is read."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._parts, b"")
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n


def _many(kind: str) -> Iterator[bytes]:
    """Some 40 MB."""
    filler = "x" * 1000
    if kind == "csv":
        yield b"f,s\n"
    elif kind == "array":
        yield b"["
    for i in range(40_000):
        if kind == "csv":
            yield f"{i},{filler}\n".encode()
        else:
            comma = "," if kind == "array" and i else ""
            yield f'{comma}{{"f": {i}, "s": "{filler}"}}'.encode() + (b"\n" if kind == "lines" else b"")
    if kind == "array":
        yield b"]"


@pytest.mark.parametrize("kind", ["csv", "lines", "array"])
def test_a_file_may_be_larger_than_memory(kind: str) -> None:
    text = io.TextIOWrapper(io.BufferedReader(Endless(_many(kind))), encoding="utf-8-sig", newline="")
    read = csv_rows if kind == "csv" else json_rows
    tracemalloc.start()
    try:
        count = sum(1 for row in read(text, READING) if row.problem is None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 40_000
    assert peak < 3_000_000


def test_a_row_longer_than_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_LONGEST", 200_000)
    with pytest.raises(FailedError, match="longer than 200000 bytes"):
        from_csv("f,s\n1," + "x" * 300_000)
    with pytest.raises(FailedError, match="longer than 200000 bytes"):
        from_json('{"s": "' + "x" * 900_000)
