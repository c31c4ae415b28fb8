# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the only room that imports it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Official builds send telemetry unless told not to before they load.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from concord_server.fault import quote
from concord_server.model import Call, SessionError
from concord_server.tensor import DType, Spec, Tensor

__all__ = ["VERSION", "Runtime", "check_library", "library"]

VERSION: str = onnxruntime.__version__
"""The release of ONNX Runtime."""

_FATAL = 4

# A graph that names a file other than those given must not reach the disk: a graph from memory would look in the
# working directory. This folder cannot exist, since a path component holds at most 255 bytes.
_NOWHERE = "/" + "-" * 300

_TENSOR = re.compile(r"tensor\((.+)\)")
_DTYPES = {
    "float": DType.FLOAT,
    "uint8": DType.UINT8,
    "int8": DType.INT8,
    "uint16": DType.UINT16,
    "int16": DType.INT16,
    "int32": DType.INT32,
    "int64": DType.INT64,
    "string": DType.STRING,
    "bool": DType.BOOL,
    "float16": DType.FLOAT16,
    "double": DType.DOUBLE,
    "uint32": DType.UINT32,
    "uint64": DType.UINT64,
    "bfloat16": DType.BFLOAT16,
}
_KINDS = (
    ("seq(", "a sequence"),
    ("map(", "a map"),
    ("optional(", "optional"),
    ("sparse_tensor(", "a sparse tensor"),
    ("opaque(", "opaque"),
)
# "[ONNXRuntimeError] : 1 : FAIL : " is the Python interface's; the C interface, which the Go server uses, has none.
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")


def library() -> Path:
    """The libonnxruntime of the installed package. Raises FileNotFoundError where it brings none."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the onnxruntime package has no files")
    folder = Path(spec.origin).parent / "capi"
    for path in sorted(folder.glob("libonnxruntime.so.*")):
        return path
    raise FileNotFoundError("the onnxruntime package brings no libonnxruntime")


def check_library(path: Path) -> str | None:
    """What is wrong with a file that should be the library that this server runs; None where it is byte-identical."""
    own = library()
    try:
        if path.samefile(own):
            return None
        same = path.stat().st_size == own.stat().st_size and _digest(path) == _digest(own)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if same:
        return None
    return f"expected the library of onnxruntime {VERSION}, which this server runs, got another file"


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


class Runtime:
    """ONNX Runtime, for sessions with that many threads within an operator."""

    def __init__(self, intra_op_threads: int = 1) -> None:
        onnxruntime.disable_telemetry_events()
        # A failure comes back as an exception; a second report on stderr would be no JSON line.
        onnxruntime.set_default_logger_severity(_FATAL)
        self._threads = intra_op_threads

    def load(self, graph: bytes, files: Mapping[str, bytes]) -> OrtSession:
        """Makes a session of a graph. External initializers come from `files` alone, by name.

        Raises SessionError where ONNX Runtime refuses the graph, or where an input or output is no tensor of a served
        type.
        """
        if not graph:
            raise SessionError("the graph is empty")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        if files:
            options.add_external_initializers_from_files_in_memory(
                list(files), list(files.values()), [len(data) for data in files.values()]
            )
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise SessionError(_text(error)) from error
        return OrtSession(session, _Shapes(graph))


class OrtSession:
    """A model.Session on ONNX Runtime."""

    def __init__(self, session: onnxruntime.InferenceSession, shapes: _Shapes) -> None:
        self._session = session
        self.inputs = tuple(_spec("input", value, shapes) for value in session.get_inputs())
        self.outputs = tuple(_spec("output", value, shapes) for value in session.get_outputs())
        if not self.outputs:
            raise SessionError("the graph has no output")
        self._names = [spec.name for spec in self.inputs]
        strings = [spec for spec in self.inputs if spec.dtype is DType.STRING]
        bfloats = [spec for spec in self.outputs if spec.dtype is DType.BFLOAT16]
        if strings and bfloats:
            pair = f"input {quote(strings[0].name)} is string and output {quote(bfloats[0].name)} bfloat16"
            raise SessionError(f"{pair}: ONNX Runtime's Python interface does not carry both")

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        """See model.Session."""
        if not wanted:
            return []
        options = onnxruntime.RunOptions()
        call.begin(lambda: setattr(options, "terminate", True))
        try:
            return self._run(inputs, wanted, options)
        except UnicodeDecodeError as error:
            raise SessionError(f"{self._not_text(inputs, wanted)}expected UTF-8, got other bytes") from error
        except SessionError:
            raise
        except Exception as error:
            call.check()
            raise SessionError(_text(error)) from error
        finally:
            call.end()

    def _run(self, inputs: Sequence[Tensor], wanted: Sequence[int], options: onnxruntime.RunOptions) -> list[Tensor]:
        names = [self.outputs[i].name for i in wanted]
        dtypes = [self.outputs[i].dtype for i in wanted]
        given = zip(self._names, inputs, strict=True)
        if DType.BFLOAT16 not in dtypes:
            feed = {
                name: _value(tensor) if tensor.dtype is DType.BFLOAT16 else _numpy(tensor) for name, tensor in given
            }
            arrays = self._session.run(names, feed, options)
            return [_tensor(dtype, array) for dtype, array in zip(dtypes, arrays, strict=True)]
        # numpy has no bfloat16: such outputs come as OrtValues, which give their bits.
        values = self._session.run_with_ort_values(names, {name: _value(tensor) for name, tensor in given}, options)
        return [
            _bits(value) if dtype is DType.BFLOAT16 else _tensor(dtype, value.numpy())
            for dtype, value in zip(dtypes, values, strict=True)
        ]

    def _not_text(self, inputs: Sequence[Tensor], wanted: Sequence[int]) -> str:
        """Names the output that was no UTF-8: the interface does not tell, so each is asked for alone."""
        for i in wanted:
            try:
                self._run(inputs, [i], onnxruntime.RunOptions())
            except UnicodeDecodeError:
                return f"output {quote(self.outputs[i].name)}: "
        return ""


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.array.view(np.float16) if tensor.dtype is DType.FLOAT16 else tensor.array


def _value(tensor: Tensor) -> onnxruntime.OrtValue:
    # An OrtValue keeps the array's memory, which may not be its own: hence the copy.
    array = np.array(_numpy(tensor))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, int(tensor.dtype))


def _tensor(dtype: DType, array: Any) -> Tensor:
    if dtype is DType.FLOAT16:
        array = array.view(np.uint16)
    if array.dtype != dtype.storage:
        raise SessionError(f"expected elements of type {dtype.storage}, got {array.dtype}")
    return Tensor(dtype, array)


def _bits(value: onnxruntime.OrtValue) -> Tensor:
    shape = tuple(value.shape())
    array = np.empty(shape, np.uint16)
    if array.nbytes:
        ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return Tensor(DType.BFLOAT16, array)


def _spec(what: str, value: Any, shapes: _Shapes) -> Spec:
    match = _TENSOR.fullmatch(value.type)
    if match is None:
        kind = next((text for prefix, text in _KINDS if value.type.startswith(prefix)), "of an unknown kind")
        raise SessionError(f"{what} {quote(value.name)} is {kind}; only tensors are served")
    dtype = _DTYPES.get(match[1])
    if dtype is None:
        raise SessionError(f"{what} {quote(value.name)} is of type {match[1]}, which is not served")
    shape = tuple(length if isinstance(length, int) and length >= 0 else -1 for length in value.shape)
    unranked = not shape and not shapes.declared(value.name)
    return Spec(value.name, dtype, shape, unranked)


def _text(error: Exception) -> str:
    return _PREFIX.sub("", str(error).strip())


class _Shapes:
    """Which inputs and outputs of a serialized graph declare a shape.

    The Python interface gives an empty shape for rank 0 and for an unknown rank alike; the graph tells them apart. It
    is read only when that question comes up, field by field, without the onnx package: ONNX Runtime has accepted it by
    then.
    """

    def __init__(self, graph: bytes) -> None:
        self._graph = graph
        self._names: set[str] | None = None

    def declared(self, name: str) -> bool:
        """Whether the graph's input or output of this name has a shape, of whatever rank."""
        if self._names is None:
            self._names = set(_declared(memoryview(self._graph)))
        return name in self._names


# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2


def _declared(model: memoryview) -> Iterator[str]:
    for graph in _children(model, _MODEL_GRAPH):
        for value in _children(graph, _GRAPH_INPUT, _GRAPH_OUTPUT):
            types = [t for kind in _children(value, _VALUE_TYPE) for t in _children(kind, _TYPE_TENSOR)]
            if any(True for t in types for _ in _children(t, _TENSOR_SHAPE)):
                for name in _children(value, _VALUE_NAME):
                    yield bytes(name).decode("utf-8", "replace")


def _children(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    """The length-delimited fields of these numbers in a serialized message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            length, at = _varint(message, at)
            if key >> 3 in numbers:
                yield message[at : at + length]
            at += length
        else:
            return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return number, at
