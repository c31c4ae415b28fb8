# SPDX-License-Identifier: Apache-2.0
"""Models and rows that come as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from click.testing import CliRunner, Result
from concord_export import verify_package
from concord_export.__main__ import main
from concord_export.errors import SourceError
from concord_export.rows_file import read_rows
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

ROWS = np.random.default_rng(0).standard_normal((60, 3))
TARGET = (ROWS[:, 0] > 0).astype(int)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def dumped(path: Path, estimator: Any) -> Path:
    skops.io.dump(estimator, path)
    return path


def test_a_skops_file(tmp_path: Path) -> None:
    path = dumped(tmp_path / "m.skops", make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, TARGET))
    np.save(tmp_path / "rows.npy", ROWS)
    done = call("skops", path, tmp_path / "models" / "m", "--rows", tmp_path / "rows.npy", "--class-names", "no,yes")
    assert done.exit_code == 0, done.output
    assert "(60 given)" in done.output
    manifest = verify_package(tmp_path / "models" / "m" / "1").package.manifest
    assert [item.prediction.name for item in manifest.predictions] == ["no", "yes"]
    made = call("skops", path, tmp_path / "models" / "m")
    assert made.exit_code == 0, made.output
    assert "the rows were made" in made.output
    forest = dumped(tmp_path / "f.skops", RandomForestClassifier(3, random_state=0).fit(ROWS, TARGET))
    assert "--trust sklearn.tree._tree.Tree" in call("skops", forest, tmp_path / "models" / "f").stderr
    done = call("skops", forest, tmp_path / "models" / "f", "--trust", "sklearn.tree._tree.Tree")
    assert done.exit_code == 0, done.output


def test_types_that_are_not_trusted_are_named(tmp_path: Path) -> None:
    estimator = make_pipeline(FunctionTransformer(np.fft.fftshift), LogisticRegression())
    estimator.steps[-1] = ("l", LogisticRegression().fit(ROWS, TARGET))
    path = dumped(tmp_path / "m.skops", estimator)
    refused = call("skops", path, tmp_path / "models" / "m")
    assert refused.exit_code == 1
    assert "holds types that are not trusted: numpy.fft.fftshift" in refused.stderr
    assert "--trust numpy.fft.fftshift" in refused.stderr
    # What is trusted is constructed; this one has no graph all the same.
    np.save(tmp_path / "rows.npy", ROWS)
    rows = ("--rows", tmp_path / "rows.npy")
    trusted = call("skops", path, tmp_path / "models" / "m", "--trust", "numpy.fft.fftshift", *rows)
    assert trusted.exit_code == 1
    assert "the function fftshift cannot be exported" in trusted.stderr
    assert not (tmp_path / "models").exists()


def test_a_file_that_is_no_skops_file(tmp_path: Path) -> None:
    (tmp_path / "m.skops").write_bytes(b"\x80\x04K\x01.")
    result = call("skops", tmp_path / "m.skops", tmp_path / "models" / "m")
    assert result.exit_code == 1
    assert "is no skops file" in result.stderr


def test_texts_need_rows(tmp_path: Path) -> None:
    texts = ["good book", "bad film", "fine"] * 3
    path = dumped(tmp_path / "m.skops", make_pipeline(CountVectorizer(), MultinomialNB()).fit(texts, [1, 0, 1] * 3))
    without = call("skops", path, tmp_path / "models" / "m")
    assert without.exit_code == 1
    assert "give some real rows (--rows)" in without.stderr
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(texts))
    done = call("skops", path, tmp_path / "models" / "m", "--rows", tmp_path / "rows.csv")
    assert done.exit_code == 0, done.output


def test_columns_by_name_come_from_the_csvs_header(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [20.0, 30, 40, 50] * 5, "sex": ["f", "m"] * 10})
    chosen = ColumnTransformer([("a", StandardScaler(), ["age"]), ("s", OneHotEncoder(), ["sex"])])
    estimator = make_pipeline(chosen, LogisticRegression()).fit(frame, [0, 1, 1, 0] * 5)
    path = dumped(tmp_path / "m.skops", estimator)
    # In another order, and with one more.
    frame.assign(more=1)[["more", "sex", "age"]].to_csv(tmp_path / "rows.csv", index=False)
    done = call("skops", path, tmp_path / "models" / "m", "--rows", tmp_path / "rows.csv")
    assert done.exit_code == 0, done.output
    manifest = verify_package(tmp_path / "models" / "m" / "1").package.manifest
    assert [(item.feature.name, item.input) for item in manifest.features] == [
        ("age", "float_features"), ("sex", "string_features"),
    ]  # fmt: skip


def test_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,x\n2.5,"y,z"\n,\n')
    table = read_rows(path)
    assert table[:2].tolist() == [[1.0, "x"], [2.5, "y,z"]]
    assert np.isnan(table[2, 0])
    assert table[2, 1] == ""
    path.write_text("a,b\n1,2\n")
    assert read_rows(path).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "a,b\n", "a header and at least one row"),
        ("rows.csv", "a,b\n1\n", "line 2 has 1 values, the header 2"),
        ("rows.csv", "a,a\n1,2\n", "there twice"),
        ("rows.npy", "no array", "rows.npy"),
        ("rows.txt", "1", "come as .csv with a header, or as .npy"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        read_rows(tmp_path / name)


def test_rows_without_the_models_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    estimator = StandardScaler().fit(pd.DataFrame({"b": [1.0, 2.0]}))
    with pytest.raises(SourceError, match=r"the model's columns \['b'\] are not in it"):
        read_rows(tmp_path / "rows.csv", estimator)
