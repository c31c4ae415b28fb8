# SPDX-License-Identifier: Apache-2.0
"""scikit-learn: a fitted estimator or pipeline to a model package."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_export.admission import check_admission
from concord_export.answers import Question, question_for
from concord_export.columns import INPUT_NAMES, Columns, read_columns
from concord_export.conversion import LABEL, SCORES, Precision, Wanted, convert
from concord_export.errors import ConversionError, PackageExistsError, ParityError, SourceError
from concord_export.golden import FEATURE_TYPES, feature_value, golden_set
from concord_export.limits import Limits
from concord_export.members import members_of
from concord_export.package import check_model_id, check_version, write_package
from concord_export.parity import Trial, compare, make_trial
from concord_export.progress import Progress
from concord_export.runtime import Session
from concord_export.source import Feature, Metric, Source
from concord_export.texts import lowers_beyond_ascii
from concord_export.verification import run_golden

__all__ = ["Report", "export_sklearn", "export_source"]

_NAMES_SHOWN = 64


@dataclass(frozen=True)
class Report:
    """What was written, and how near it is to its source.

    precision: "double" where the graph computes in 64-bit floats as scikit-learn does, else "float".
    real_rows: how many of the rows tried were the author's own.
    left_out: how many of the author's rows clients could not send, since a text is missing in them.
    """

    directory: Path
    manifest: manifest_pb2.Manifest
    parity: model_pb2.ParityRecord
    precision: Precision
    real_rows: int
    left_out: int = 0


def export_sklearn(
    estimator: Any,
    rows: Any,
    directory: Path | str,
    *,
    features: Sequence[Feature] | None = None,
    description: str = "",
    class_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    target_descriptions: Sequence[str] | None = None,
    absolute_limit: float = 1e-5,
    relative_limit: float = 1e-6,
    try_missing: bool = True,
    quality: Sequence[Metric] = (),
    precision: Precision | None = None,
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Writes the package of a fitted estimator to `directory`, which is `<repository>/<model id>/<version>`.

    The arguments are those of Source; then: `precision`, to try only "double" or only "float" (by default double, and
    float where there is no such graph); `replace_existing`, to put it in the place of a version that is there;
    `progress`, called with what is under way, how much is done and how much it is.

    Nothing is written unless the export answers like its source on all rows. Raises SourceError, ConversionError,
    ParityError, PackageError.
    """
    source = Source(
        estimator=estimator,
        rows=rows,
        features=features,
        description=description,
        class_names=class_names,
        target_names=target_names,
        target_descriptions=target_descriptions,
        absolute_limit=absolute_limit,
        relative_limit=relative_limit,
        try_missing=try_missing,
        quality=quality,
    )
    return export_source(
        source, Path(directory), precision=precision, replace_existing=replace_existing, progress=progress
    )


def export_source(
    source: Source,
    directory: Path,
    *,
    precision: Precision | None = None,
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Report:
    """export_sklearn of what `source` holds."""
    check_model_id(directory.parent.name)
    check_version(directory.name)
    if directory.exists() and not replace_existing:
        raise PackageExistsError(f"{directory} is there already; choose another version, or replace it")
    if not (source.absolute_limit >= 0 and source.relative_limit >= 0):
        raise SourceError("absolute_limit, relative_limit: expected numbers of at least 0")
    for metric in source.quality:
        if not metric.name or metric.rows < 1 or not math.isfinite(metric.value):
            raise SourceError(f"quality: expected a name, a finite value and at least 1 row, got {metric}")
    limits = Limits(source.absolute_limit, source.relative_limit)
    source = replace(source, estimator=_estimator(source.estimator))

    columns = read_columns(source.rows, source.features, source.estimator)
    question = question_for(source, columns)
    if progress is not None:
        progress("asking the source model", 0, 1)
    trial = make_trial(question, columns, try_missing=source.try_missing)
    model, session, question, parity, used = _convert_and_compare(
        question, trial, limits, directory.parent.name, precision, progress
    )
    manifest = _manifest(source, columns, question, session, parity)
    golden = golden_set(question, trial, limits)
    # The bindings and the golden cases, as a server will use them.
    run_golden(session, manifest, golden)
    write_package(directory, model=model, manifest=manifest, golden=golden, replace=replace_existing)
    return Report(directory, manifest, parity, used, len(columns), columns.left_out)


def _estimator(given: Any) -> Any:
    """What was handed over; a booster of LightGBM or XGBoost as an estimator."""
    library = type(given).__module__.partition(".")[0]
    if type(given).__name__ == "Booster" and library == "lightgbm":
        from concord_export import from_lightgbm

        return from_lightgbm.adapter(given)
    if type(given).__name__ == "Booster" and library == "xgboost":
        from concord_export import from_xgboost

        return from_xgboost.adapter(given)
    return given


def _convert_and_compare(
    question: Question,
    trial: Trial,
    limits: Limits,
    name: str,
    precision: Precision | None,
    progress: Progress | None,
) -> tuple[onnx.ModelProto, Session, Question, model_pb2.ParityRecord, Precision]:
    """The first graph that answers like its source. If none does, raises a failure of parity, else the first one."""
    precisions: tuple[Precision, ...] = ("double", "float") if precision is None else (precision,)
    # The locale C is everywhere and knows ASCII only; C.UTF-8 knows all letters and is on most machines.
    beyond_ascii = any(lowers_beyond_ascii(member) for member in members_of(question.estimator))
    locales = ("C", "C.UTF-8") if beyond_ascii else ("C",)
    failures: list[ConversionError | ParityError] = []
    for attempt, locale in itertools.product(precisions, locales):
        try:
            if progress is not None:
                progress(f"converting in {attempt}s", 0, 1)
            model = convert(
                question.estimator, trial.columns, _wanted(question), name=name, precision=attempt, locale=locale
            )
            serialized = model.SerializeToString()
            check_admission(serialized)
            session = Session(serialized)
            fitted = question
            if question.numbers is not None:
                first = session.run({key: value[:1] for key, value in trial.columns.tensors().items()})
                width = first[SCORES].shape[1]
                fitted = replace(question, indices=tuple(index % width for index in question.indices))
            return model, session, fitted, compare(session, fitted, trial, limits, progress), attempt
        except (ConversionError, ParityError) as error:
            failures.append(error)
    for failure in failures:
        if isinstance(failure, ParityError):
            raise failure
    raise ConversionError("\n".join(dict.fromkeys(str(failure) for failure in failures)))


def _wanted(question: Question) -> Wanted:
    label = question.label
    return Wanted(
        labelled=label is not None,
        bool_label=label is not None and label.kind == "bool",
        label_count=0 if label is None else label.count,
        scored=question.numbers is not None,
    )


def _manifest(
    source: Source, columns: Columns, question: Question, session: Session, parity: model_pb2.ParityRecord
) -> manifest_pb2.Manifest:
    manifest = manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TABULAR,
        description=source.description,
        batching=manifest_pb2.Batching(batchable=parity.batched_equals_single),
        parity=parity,
    )
    for column in columns.columns:
        if column.element == 0:
            manifest.features.add(feature=_feature(column.feature), input=INPUT_NAMES[column.kind], column=column.place)
    if question.array:
        shown = question.names[:_NAMES_SHOWN]
        more = len(question.names) - len(shown)
        text = "In this order: " + ", ".join(shown) + (f" and {more} more." if more else ".")
        output = model_pb2.Output(
            name=question.array, type=model_pb2.FEATURE_TYPE_FLOAT, shape=[len(question.names)], description=text
        )
        manifest.outputs.add(output=output, onnx_output=SCORES, index=0)
    else:
        for name, text, index in zip(question.names, question.descriptions, question.indices, strict=True):
            manifest.predictions.add(
                prediction=model_pb2.Prediction(name=name, description=text), output=SCORES, index=index
            )
    label = question.label
    if label is not None:
        output = model_pb2.Output(
            name=label.name,
            type=FEATURE_TYPES[label.kind],
            shape=[label.count] if label.count else [],
            description=label.description,
        )
        manifest.outputs.add(output=output, onnx_output=LABEL, index=0)
    for metric in source.quality:
        manifest.quality.add(name=metric.name, value=metric.value, rows=metric.rows)
    for distribution in _libraries(source.estimator):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            manifest.library_versions[distribution] = importlib.metadata.version(distribution)
    return manifest


def _libraries(estimator: Any) -> list[str]:
    """The distributions that the export went through; XGBoost comes as one of two."""
    used = {type(member).__module__.partition(".")[0] for member in members_of(estimator)}
    ask = getattr(estimator, "ask", None)
    used.add(getattr(ask, "__module__", "").removeprefix("concord_export.from_"))
    more = [name for name in ("lightgbm", "xgboost", "xgboost-cpu") if name.removesuffix("-cpu") in used]
    return ["numpy", "onnx", "onnxruntime", "protobuf", "scikit-learn", "skl2onnx", *more]


def _feature(feature: Feature) -> model_pb2.Feature:
    message = model_pb2.Feature(
        name=feature.name,
        type=FEATURE_TYPES[feature.kind],
        shape=list(feature.shape),
        required=feature.default is None,
        description=feature.description,
    )
    if feature.default is not None:
        try:
            message.default_value.CopyFrom(feature_value(feature, feature.default))
        except (TypeError, ValueError) as error:
            raise SourceError(f"feature {feature.name!r}: default: {error}") from None
    return message
