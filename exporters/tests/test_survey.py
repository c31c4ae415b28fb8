# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from concord_export import survey
from concord_export.survey import cases, main


def test_every_kind_of_model_is_in_it() -> None:
    every = list(cases())
    groups = {case.group.partition(",")[0] for case in every}
    assert groups == {
        "classification", "several labels", "regression", "clustering", "outliers", "transformers",
        "strings and numbers", "texts", "LightGBM", "XGBoost",
    }  # fmt: skip
    assert len(every) > 100
    assert len({(case.group, case.name) for case in every}) == len(every)


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["Lasso", "KMeans", "XGBRegressor"]
    result = CliRunner().invoke(main, ["--markdown", *chosen])
    assert result.exit_code == 0, result.output
    assert "**regression**" in result.output
    assert "| Lasso | 1000 |" in result.output
    assert "| KMeans | 1000 | 2.4e-07 | 0 | 1000 of 1000 | doubles |" in result.output
    assert "5 of 5 exported" in result.output
    assert "Lasso" in CliRunner().invoke(main, ["Lasso"]).output


def test_a_failure_is_shown_and_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from concord_export.errors import ParityError

    def fail(*arguments: object) -> None:
        raise ParityError("as far off as can be\nmore")

    monkeypatch.setattr(survey, "export_sklearn", fail)
    result = CliRunner().invoke(main, ["Lasso"])
    assert result.exit_code == 1
    assert "as far off as can be" in result.output
    assert "0 of 1 exported" in result.output
