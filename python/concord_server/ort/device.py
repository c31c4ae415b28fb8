# SPDX-License-Identifier: Apache-2.0
"""Where sessions run: the CPU, or a GPU by device buffers."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from concord_server.model import SessionError
from concord_server.ort.api import Api
from concord_server.ort.library import library

__all__ = ["BOUND_CPU", "CPU", "Binding", "check_gpu", "number", "use_gpu"]

CPU = -1
"""The device of sessions that run on the CPU; a GPU is its number, from 0."""

BOUND_CPU = -2
"""Runs on the CPU by the path of a GPU: for tests."""

# What the CUDA provider needs, in the order in which each needs those before it. cuDNN is asked for at the first
# operator that uses it.
_LIBRARIES = (
    "libcudart.so.13",
    "libnvrtc.so.13",
    "libnvJitLink.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcufft.so.12",
    "libcudnn.so.9",
)

_MISSING = re.compile(r"with error: (\S+): cannot open shared object file")

_DEVICE_ALLOCATOR, _ARENA_ALLOCATOR = 0, 1
_MEMORY_CPU_OUTPUT, _MEMORY_DEFAULT = -1, 0

_pointers = POINTER(c_void_p)


def number(device: str) -> int:
    """The device of "cpu" or "cuda:N"."""
    return CPU if device == "cpu" else int(device.removeprefix("cuda:"))


def check_gpu(api: Api, device: int, version: str) -> str | None:
    """Why sessions cannot run on that GPU: what is missing; None where they can. Nothing falls back to the CPU.

    CUDA's libraries are looked for where the loader looks, and where the packages onnxruntime-gpu[cuda,cudnn] put them.
    """
    _preload(library().parent)
    options = api.make("CreateSessionOptions")
    try:
        use_gpu(api, options, device)
        count = _device_count()
        why = None if device < count else f"this machine has {count} GPUs that CUDA can use"
    except SessionError as error:
        why = _why(str(error), version)
    finally:
        api.ReleaseSessionOptions(options)
    return why and f"expected a GPU at cuda:{device}, got none: {why}"


def _preload(folder: Path) -> None:
    for name in _LIBRARIES:
        for path in folder.parent.parent.glob(f"nvidia/*/lib/{name}"):
            with suppress(OSError):  # what is missing then, the provider tells
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _device_count() -> int:
    # The provider's library has loaded CUDA's by now.
    count = c_int()
    try:
        failed = ctypes.CDLL("libcudart.so.13").cudaGetDeviceCount(byref(count))
    except OSError:
        return 0
    return 0 if failed else count.value


def _why(text: str, version: str) -> str:
    match = _MISSING.search(text)
    if match and match[1] == "libcuda.so.1":
        return "libcuda.so.1, which the NVIDIA driver brings, is missing"
    if match:
        return f"{match[1]} is missing: install onnxruntime-gpu[cuda,cudnn]=={version}"
    if text == "CUDA execution provider is not enabled in this build.":
        return f"libonnxruntime.so.{version} is the one for CPUs: it must be that of onnxruntime-gpu=={version}"
    return text


def use_gpu(api: Api, options: int, device: int) -> None:
    """Puts sessions with these options on a GPU. TF32 would answer outside the class of float32."""
    cuda = api.make("CreateCUDAProviderOptions")
    settings = {b"device_id": b"%d" % device, b"use_tf32": b"0", b"arena_extend_strategy": b"kSameAsRequested"}
    keys = (c_char_p * len(settings))(*settings)
    values = (c_char_p * len(settings))(*settings.values())
    try:
        api.check(api.UpdateCUDAProviderOptions(cuda, keys, values, len(settings)))
        api.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda))
    finally:
        api.ReleaseCUDAProviderOptions(cuda)


class Binding:
    """How a session on a GPU runs: inputs come from, and outputs go to, memory that it reads and writes directly."""

    def __init__(self, api: Api, session: int, device: int, strings: Collection[bytes]) -> None:
        """`strings` are the names of the outputs that hold strings.

        The session was made with session.record_ep_graph_assignment_info.
        """
        self._api = api
        self._session = session
        self._strings = strings
        self.cpu_nodes = _cpu_nodes(api, session)
        """Nodes of the graph that run on the CPU."""
        if device == BOUND_CPU:
            arguments = (b"Cpu", _ARENA_ALLOCATOR, 0, _MEMORY_DEFAULT)
        else:
            arguments = (b"CudaPinned", _DEVICE_ALLOCATOR, device, _MEMORY_CPU_OUTPUT)
        self._memory = api.make("CreateMemoryInfo", *arguments)
        self.allocator = api.make("CreateAllocator", session, self._memory)
        """Of the memory that the GPU and the host share."""

    def close(self) -> None:
        """Before the session is released."""
        self._api.ReleaseAllocator(self.allocator)
        self._api.ReleaseMemoryInfo(self._memory)

    def run(self, options: int, names: Any, inputs: Any, output_names: Any, outputs: Any) -> None:
        """Runs, and puts the values of the named outputs into `outputs`. All are ctypes arrays. Raises SessionError."""
        api = self._api
        binding = api.make("CreateIoBinding", self._session)
        try:
            for name, value in zip(names, inputs, strict=True):
                api.check(api.BindInput(binding, name, value))
            for name in output_names:
                # Strings come into the CPU's own memory, which is where such outputs are made.
                memory = api.cpu_memory if name in self._strings else self._memory
                api.check(api.BindOutputToDevice(binding, name, memory))
            api.check(api.SynchronizeBoundInputs(binding))
            api.check(api.RunWithBinding(self._session, options, binding))
            api.check(api.SynchronizeBoundOutputs(binding))
            values, count = _pointers(), c_size_t()
            api.check(api.GetBoundOutputValues(binding, api.allocator, byref(values), byref(count)))
            for i in range(count.value):
                outputs[i] = values[i]
            api.check(api.AllocatorFree(api.allocator, values))
        finally:
            api.ReleaseIoBinding(binding)


def _cpu_nodes(api: Api, session: int) -> int:
    subgraphs, count = _pointers(), c_size_t()
    api.check(api.Session_GetEpGraphAssignmentInfo(session, byref(subgraphs), byref(count)))
    total = 0
    for i in range(count.value):
        name, nodes, node_count = c_char_p(), c_void_p(), c_size_t()
        api.check(api.EpAssignedSubgraph_GetEpName(subgraphs[i], byref(name)))
        api.check(api.EpAssignedSubgraph_GetNodes(subgraphs[i], byref(nodes), byref(node_count)))
        if name.value == b"CPUExecutionProvider":
            total += node_count.value
    return total
