# SPDX-License-Identifier: Apache-2.0
"""Converters of this package in skl2onnx's registries, for the time of a conversion."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from skl2onnx import _parse, _supported_operators
from skl2onnx.common import _registration
from skl2onnx.common.data_types import (
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
    guess_tensor_type,
)

from concord_export.nodes import Nodes

__all__ = ["Converter", "Own", "Settings", "Shapes", "current_settings", "installed", "width"]

Converter = Callable[[Any, Any, Any], None]
"""skl2onnx's: takes scope, operator and container."""

Shapes = Callable[[Any], None]
"""skl2onnx's: takes an operator and sets the types of its outputs."""

# What converters of classifiers are asked for by those that hold classifiers; raw scores are decision values.
_OPTIONS = {"zipmap": [True, False], "nocl": [True, False]}
_RAW_SCORES = {"raw_scores": [True, False]}
_REGISTRIES = (
    _registration._converter_pool,
    _registration._shape_calculator_pool,
    _supported_operators.sklearn_operator_name_map,
    _parse.sklearn_parsers_map,
)
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Settings:
    """How a conversion is to be done: in doubles or 32-bit floats, and texts lower-cased by which locale."""

    double: bool = True
    locale: str = "C"


_SETTINGS: ContextVar[Settings] = ContextVar("settings")


def current_settings() -> Settings:
    """The settings of the conversion under way."""
    return _SETTINGS.get()


def _number_type(given: Any) -> Any:
    """skl2onnx's type of the numbers that are made of an input: that of the numbers that go in or, of texts, ours."""
    if isinstance(given, StringTensorType):
        return DoubleTensorType if current_settings().double else FloatTensorType
    return type(guess_tensor_type(given))


@dataclass(frozen=True)
class Own:
    """A converter for one class of estimators, whether skl2onnx has one or not.

    `outputs` are what it gives: "label" (int64 or strings), "numbers" (floats), in this order.
    """

    kind: type
    outputs: tuple[str, ...]
    convert: Callable[[Nodes], None]

    @property
    def alias(self) -> str:
        """Its name in skl2onnx's registries."""
        return f"Concord{self.kind.__module__.partition('.')[0].capitalize()}{self.kind.__name__}"

    def install(self) -> None:
        """Puts it into skl2onnx's registries."""

        def convert(scope: Any, operator: Any, container: Any) -> None:
            self.convert(Nodes(scope, operator, container))

        def parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
            operator = scope.declare_local_operator(self.alias, model)
            operator.inputs = inputs
            for output in self.outputs:
                made = Int64TensorType() if output == "label" else _number_type(inputs[0].type)()
                operator.outputs.append(scope.declare_local_variable(output, made))
            return operator.outputs

        options: dict[str, Any] = {}
        if "label" in self.outputs:
            options = {**_OPTIONS, **(_RAW_SCORES if hasattr(self.kind, "decision_function") else {})}
        _registration._converter_pool[self.alias] = _registration.RegisteredConverter(convert, options)
        _registration._shape_calculator_pool[self.alias] = self._shapes
        _supported_operators.sklearn_operator_name_map[self.kind] = self.alias
        _parse.sklearn_parsers_map[self.kind] = parse

    def _shapes(self, operator: Any) -> None:
        estimator = operator.raw_operator
        rows = operator.inputs[0].get_first_dimension()
        for output, variable in zip(self.outputs, operator.outputs, strict=True):
            if output == "label":
                classes = getattr(estimator, "classes_", [0])
                # Of several labels there is a list of classes for each.
                first = classes[0] if isinstance(classes, list) else classes
                strings = all(isinstance(label, str) for label in np.ravel(first).tolist())
                variable.set_type((StringTensorType if strings else Int64TensorType)([rows]))
            else:
                variable.set_type(_number_type(operator.inputs[0].type)([rows, width(estimator)]))


def width(estimator: Any) -> int | None:
    """How many columns a transformer gives, where it tells."""
    try:
        return len(estimator.get_feature_names_out())
    except Exception:
        # Not all tell, and some that could raise.
        return None


@contextmanager
def installed(
    own: Iterable[Own],
    replacements: Mapping[str, Callable[[Converter], Converter]],
    shapes: Mapping[str, Callable[[Shapes], Shapes]],
    settings: Settings,
) -> Iterator[None]:
    """Within this context skl2onnx uses these converters; afterwards its own again.

    `replacements` are made of skl2onnx's own converters, `shapes` of its shape calculators, both by their aliases.
    """
    with _LOCK:
        before = [dict(registry) for registry in _REGISTRIES]
        token = _SETTINGS.set(settings)
        try:
            for alias, replace in replacements.items():
                registered = _registration.get_converter(alias)
                _registration._converter_pool[alias] = _registration.RegisteredConverter(
                    replace(registered._fct), registered.get_allowed_options()
                )
            for alias, shape in shapes.items():
                original = _registration._shape_calculator_pool[alias]
                _registration._shape_calculator_pool[alias] = shape(original)
            for each in own:
                each.install()
            yield
        finally:
            _SETTINGS.reset(token)
            for registry, entries in zip(_REGISTRIES, before, strict=True):
                registry.clear()
                registry.update(entries)
