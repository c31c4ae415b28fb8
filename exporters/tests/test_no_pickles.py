# SPDX-License-Identifier: Apache-2.0
"""No code of this repository reads or writes a pickle: proved from the syntax trees of all its Python files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PICKLERS = {"pickle", "_pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}


def violations(tree: ast.AST) -> Iterator[str]:
    """What in a syntax tree reads or writes pickles: an import of such a module, or a loader that unpickles."""
    # What a name stands for in this file: {"np": "numpy", "load": "torch.load"}.
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meaning[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield from _imported(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield from _imported(f"{node.module}.{alias.name}", node.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = _dotted(node, meaning)
            if name in ("torch.load", "torch.save") or name.startswith(
                ("sklearn.externals.joblib", "pandas.read_pickle")
            ):
                yield f"line {node.lineno}: {name}"
            if node.attr in ("read_pickle", "to_pickle"):
                yield f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.Name) and meaning.get(node.id) in ("torch.load", "torch.save", "pandas.read_pickle"):
            yield f"line {node.lineno}: {meaning[node.id]}"
        elif isinstance(node, ast.Call):
            yield from _called(node, meaning)


def _imported(module: str, line: int) -> Iterator[str]:
    if PICKLERS & set(module.split(".")):
        yield f"line {line}: import of {module}"


def _called(call: ast.Call, meaning: dict[str, str]) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg == "allow_pickle" and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        ):
            yield f"line {call.lineno}: allow_pickle"
    name = _dotted(call.func, meaning)
    if (
        name in ("__import__", "builtins.__import__", "importlib.import_module", "importlib.util.find_spec")
        and call.args
    ):
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield from _imported(first.value, call.lineno)


def _dotted(node: ast.expr, meaning: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return meaning.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, meaning)}.{node.attr}"
    return "?"


def python_files() -> list[Path]:
    left_out = {".venv", "build", "dist", "node_modules", "__pycache__", ".git"}
    return sorted(
        path
        for path in REPOSITORY.rglob("*.py")
        if not left_out & set(path.relative_to(REPOSITORY).parts) and path.is_file()
    )


def test_no_code_calls_a_pickler() -> None:
    files = python_files()
    rooms = {path.relative_to(REPOSITORY).parts[0] for path in files}
    assert {"python", "exporters", "conformance", "proto"} <= rooms
    assert Path(__file__).resolve() in [path.resolve() for path in files]
    found = [
        f"{path.relative_to(REPOSITORY)}: {violation}"
        for path in files
        for violation in violations(ast.parse(path.read_bytes(), str(path)))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    import joblib",
        "from joblib import load as read",
        "from sklearn.externals import joblib",
        "import cloudpickle, os",
        "import dill",
        "import shelve",
        "import torch\ntorch.load('x')",
        "import torch as t\nread = t.load",
        "from torch import load\nload('x')",
        "from torch import load as read\nread('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy\nnumpy.load('x', allow_pickle=flag)",
        "from numpy import load\nload('x', allow_pickle=1)",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('joblib')",
        "from importlib import import_module\nimport_module('pickle')",
    ],
)
def test_the_proof_bites(code: str) -> None:
    assert list(violations(ast.parse(code))) != []


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.load(f)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import torch\ntorch.onnx.export(m, x, 'f')",
        "text = 'pickle and joblib.load'",
        "class Model:\n    def load(self): ...\nModel().load()",
        "import importlib\nimportlib.import_module(name)",
    ],
)
def test_the_proof_is_no_word_search(code: str) -> None:
    assert list(violations(ast.parse(code))) == []
