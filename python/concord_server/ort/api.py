# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's C API: one table of functions whose places never change; a release only appends.

This is the library and the interface that the Go server uses. The package's own Python interface links a second copy of
ONNX Runtime, takes and gives strings as text only, and has no bfloat16; through this one every tensor passes byte for
byte.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from concord_server.model import SessionError

__all__ = ["FATAL", "PLACES", "Api"]

# The API version that has all functions below. A newer library serves it as well.
API_VERSION = 24

FATAL = 4
"""Of the severities of a log, the one that ONNX Runtime never reaches: every failure comes back as a status."""

_ARENA_ALLOCATOR, _MEMORY_DEFAULT = 1, 0

_out = POINTER(c_void_p)
_sizes = POINTER(c_size_t)

# Each function's place, and its arguments after the result, which is a status (a pointer, null where nothing failed).
PLACES: dict[str, tuple[int, Any, tuple[Any, ...]]] = {
    "GetErrorMessage": (2, c_char_p, (c_void_p,)),
    "CreateEnv": (3, c_void_p, (c_int, c_char_p, _out)),
    "DisableTelemetryEvents": (6, c_void_p, (c_void_p,)),
    "CreateSessionFromArray": (8, c_void_p, (c_void_p, c_char_p, c_size_t, c_void_p, _out)),
    "Run": (9, c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p)),
    "CreateSessionOptions": (10, c_void_p, (_out,)),
    "SetSessionLogSeverityLevel": (22, c_void_p, (c_void_p, c_int)),
    "SetIntraOpNumThreads": (24, c_void_p, (c_void_p, c_int)),
    "SetInterOpNumThreads": (25, c_void_p, (c_void_p, c_int)),
    "SessionGetInputCount": (30, c_void_p, (c_void_p, _sizes)),
    "SessionGetOutputCount": (31, c_void_p, (c_void_p, _sizes)),
    "SessionGetInputTypeInfo": (33, c_void_p, (c_void_p, c_size_t, _out)),
    "SessionGetOutputTypeInfo": (34, c_void_p, (c_void_p, c_size_t, _out)),
    "SessionGetInputName": (36, c_void_p, (c_void_p, c_size_t, c_void_p, _out)),
    "SessionGetOutputName": (37, c_void_p, (c_void_p, c_size_t, c_void_p, _out)),
    "CreateRunOptions": (39, c_void_p, (_out,)),
    "RunOptionsSetTerminate": (46, c_void_p, (c_void_p,)),
    "CreateTensorAsOrtValue": (48, c_void_p, (c_void_p, c_void_p, c_size_t, c_int, c_void_p)),
    "CreateTensorWithDataAsOrtValue": (
        49,
        c_void_p,
        (c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_int, c_void_p),
    ),
    "GetTensorMutableData": (51, c_void_p, (c_void_p, c_void_p)),
    "FillStringTensor": (52, c_void_p, (c_void_p, c_void_p, c_size_t)),
    "GetStringTensorDataLength": (53, c_void_p, (c_void_p, _sizes)),
    "GetStringTensorContent": (54, c_void_p, (c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)),
    "CastTypeInfoToTensorInfo": (55, c_void_p, (c_void_p, _out)),
    "GetOnnxTypeFromTypeInfo": (56, c_void_p, (c_void_p, POINTER(c_int))),
    "GetTensorElementType": (60, c_void_p, (c_void_p, POINTER(c_int))),
    "GetDimensionsCount": (61, c_void_p, (c_void_p, _sizes)),
    "GetDimensions": (62, c_void_p, (c_void_p, POINTER(c_int64), c_size_t)),
    "CreateMemoryInfo": (68, c_void_p, (c_char_p, c_int, c_int, c_int, _out)),
    "CreateCpuMemoryInfo": (69, c_void_p, (c_int, c_int, _out)),
    "AllocatorFree": (76, c_void_p, (c_void_p, c_void_p)),
    "GetAllocatorWithDefaultOptions": (78, c_void_p, (_out,)),
    "ReleaseStatus": (93, None, (c_void_p,)),
    "ReleaseMemoryInfo": (94, None, (c_void_p,)),
    "ReleaseSession": (95, None, (c_void_p,)),
    "ReleaseValue": (96, None, (c_void_p,)),
    "ReleaseRunOptions": (97, None, (c_void_p,)),
    "ReleaseTypeInfo": (98, None, (c_void_p,)),
    "ReleaseSessionOptions": (100, None, (c_void_p,)),
    "AddSessionConfigEntry": (130, c_void_p, (c_void_p, c_char_p, c_char_p)),
    "CreateAllocator": (131, c_void_p, (c_void_p, c_void_p, _out)),
    "ReleaseAllocator": (132, None, (c_void_p,)),
    "RunWithBinding": (133, c_void_p, (c_void_p, c_void_p, c_void_p)),
    "CreateIoBinding": (134, c_void_p, (c_void_p, _out)),
    "ReleaseIoBinding": (135, None, (c_void_p,)),
    "BindInput": (136, c_void_p, (c_void_p, c_char_p, c_void_p)),
    "BindOutput": (137, c_void_p, (c_void_p, c_char_p, c_void_p)),
    "BindOutputToDevice": (138, c_void_p, (c_void_p, c_char_p, c_void_p)),
    "GetBoundOutputValues": (140, c_void_p, (c_void_p, c_void_p, c_void_p, _sizes)),
    "SynchronizeBoundInputs": (202, c_void_p, (c_void_p,)),
    "SynchronizeBoundOutputs": (203, c_void_p, (c_void_p,)),
    "SessionOptionsAppendExecutionProvider_CUDA_V2": (204, c_void_p, (c_void_p, c_void_p)),
    "CreateCUDAProviderOptions": (205, c_void_p, (_out,)),
    "UpdateCUDAProviderOptions": (206, c_void_p, (c_void_p, c_void_p, c_void_p, c_size_t)),
    "ReleaseCUDAProviderOptions": (208, None, (c_void_p,)),
    "GetResizedStringTensorElementBuffer": (252, c_void_p, (c_void_p, c_size_t, c_size_t, _out)),
    "AddExternalInitializersFromFilesInMemory": (279, c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p, c_size_t)),
    "TensorTypeAndShape_HasShape": (390, c_bool, (c_void_p,)),
    "Session_GetEpGraphAssignmentInfo": (407, c_void_p, (c_void_p, c_void_p, _sizes)),
    "EpAssignedSubgraph_GetEpName": (408, c_void_p, (c_void_p, c_void_p)),
    "EpAssignedSubgraph_GetNodes": (409, c_void_p, (c_void_p, c_void_p, _sizes)),
    "GetTensorElementTypeAndShapeDataReference": (414, c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p)),
}

# These may take long: other threads go on meanwhile. The rest are so short that letting go would only cost.
_LONG = {
    "CreateEnv",
    "CreateSessionFromArray",
    "Run",
    "ReleaseSession",
    "RunWithBinding",
    "BindInput",
    "SynchronizeBoundInputs",
    "SynchronizeBoundOutputs",
    "UpdateCUDAProviderOptions",
    "SessionOptionsAppendExecutionProvider_CUDA_V2",
}


class _Base(ctypes.Structure):
    _fields_ = (
        ("GetApi", ctypes.CFUNCTYPE(c_void_p, c_uint32)),
        ("GetVersionString", ctypes.CFUNCTYPE(c_char_p)),
    )


class Api:
    """The functions by name, and what all sessions share. The library stays loaded for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        """Loads the library. Raises OSError where it cannot be, SessionError where it is no ONNX Runtime of ours."""
        # Official builds send telemetry unless told not to before they load.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        # The default hides its symbols from other libraries, such as a second ONNX Runtime.
        loaded = ctypes.CDLL(os.fspath(path))
        get_base = loaded.OrtGetApiBase
        get_base.restype = POINTER(_Base)
        base = get_base().contents
        self.version: str = base.GetVersionString().decode()
        address = base.GetApi(API_VERSION)
        if not address:
            raise SessionError(f"ONNX Runtime {self.version} does not serve version {API_VERSION} of its C API")
        table = ctypes.cast(address, POINTER(c_void_p))
        for name, (place, result, arguments) in PLACES.items():
            prototype = ctypes.CFUNCTYPE if name in _LONG else ctypes.PYFUNCTYPE
            setattr(self, name, prototype(result, *arguments)(table[place]))
        # Of a run that is shorter than another thread's turn.
        place, result, arguments = PLACES["Run"]
        self.RunNow = ctypes.PYFUNCTYPE(result, *arguments)(table[place])
        # Long only where it copies to another device.
        place, result, arguments = PLACES["BindInput"]
        self.BindInputNow = ctypes.PYFUNCTYPE(result, *arguments)(table[place])
        self.environment = self.make("CreateEnv", FATAL, b"concord")
        self.check(self.DisableTelemetryEvents(self.environment))
        self.cpu_memory = self.make("CreateCpuMemoryInfo", _ARENA_ALLOCATOR, _MEMORY_DEFAULT)
        self.allocator = self.make("GetAllocatorWithDefaultOptions")

    def __getattr__(self, name: str) -> Any:
        # Only for type checkers: __init__ sets all of them.
        raise AttributeError(name)

    def check(self, status: int | None) -> None:
        """Raises SessionError, with ONNX Runtime's own message, where a status says that a call failed."""
        if status:
            message: bytes = self.GetErrorMessage(status)
            self.ReleaseStatus(status)
            raise SessionError(message.decode("utf-8", "replace").strip())

    def make(self, function: str, *arguments: Any) -> int:
        """What a function gives through its last argument."""
        made = c_void_p()
        self.check(getattr(self, function)(*arguments, ctypes.byref(made)))
        return made.value or 0

    def count(self, function: str, *arguments: Any) -> int:
        """The size that a function gives through its last argument."""
        size = c_size_t()
        self.check(getattr(self, function)(*arguments, ctypes.byref(size)))
        return size.value

    def number(self, function: str, *arguments: Any) -> int:
        """The integer that a function gives through its last argument."""
        number = c_int()
        self.check(getattr(self, function)(*arguments, ctypes.byref(number)))
        return number.value

    def tensor_info(self, info: int) -> tuple[int, tuple[int, ...]]:
        """The dtype and the lengths that a TensorTypeAndShapeInfo tells; an open length is negative."""
        dtype = self.number("GetTensorElementType", info)
        rank = self.count("GetDimensionsCount", info)
        lengths = (c_int64 * rank)()
        self.check(self.GetDimensions(info, lengths, rank))
        return dtype, tuple(lengths)
