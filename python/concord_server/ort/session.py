# SPDX-License-Identifier: Apache-2.0
"""Sessions on ONNX Runtime."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_size_t
from typing import Any

from concord_server.allocator import give_back
from concord_server.fault import quote
from concord_server.model import Call, SessionError
from concord_server.ort.api import FATAL, Api
from concord_server.ort.device import CPU, Binding, number, use_gpu
from concord_server.ort.lane import Lanes
from concord_server.ort.library import library
from concord_server.ort.values import Values
from concord_server.tensor import DType, Spec, Tensor, dtype_name

__all__ = ["OrtSession", "RunOptions", "Runtime"]

# A graph that names a file other than those given must not reach the disk: a graph from memory would look in the
# working directory. This folder cannot exist, since a path component holds at most 255 bytes.
_NO_FOLDER = b"/" + b"-" * 300

_TENSOR = 1
_KINDS = {2: "a sequence", 3: "a map", 4: "opaque", 5: "a sparse tensor", 6: "optional"}


@functools.cache
def api() -> Api:
    """ONNX Runtime, loaded once for the process."""
    return Api(library())


class Runtime:
    """ONNX Runtime, for sessions on one device, with that many threads within an operator."""

    def __init__(self, intra_op_threads: int = 1, device: str = "cpu") -> None:
        """`device` is "cpu", or "cuda:N" that check_device has passed."""
        self._api = api()
        self._threads = intra_op_threads
        self._device = number(device)

    def load(self, graph: bytes, files: Mapping[str, bytes]) -> OrtSession:
        """Makes a session of a graph. External initializers come from `files` alone, by name.

        Raises SessionError where ONNX Runtime refuses the graph, or where an input or output is no tensor of a served
        type.
        """
        if not graph:
            raise SessionError("the graph is empty")
        api = self._api
        options = api.make("CreateSessionOptions")
        try:
            api.check(api.SetSessionLogSeverityLevel(options, FATAL))
            api.check(api.SetIntraOpNumThreads(options, self._threads))
            api.check(api.SetInterOpNumThreads(options, 1))
            for key, value in (
                (b"session.intra_op.allow_spinning", b"0"),
                (b"session.inter_op.allow_spinning", b"0"),
                (b"session.model_external_initializers_file_folder_path", _NO_FOLDER),
            ):
                api.check(api.AddSessionConfigEntry(options, key, value))
            if files:
                _add_files(api, options, files)
            if self._device >= 0:
                use_gpu(api, options, self._device)
            if self._device != CPU:
                api.check(api.AddSessionConfigEntry(options, b"session.record_ep_graph_assignment_info", b"1"))
            pointer = api.make("CreateSessionFromArray", api.environment, graph, len(graph), options)
        finally:
            api.ReleaseSessionOptions(options)
            give_back()
        return OrtSession(api, pointer, self._device)


def _add_files(api: Api, options: int, files: Mapping[str, bytes]) -> None:
    count = len(files)
    names = (c_char_p * count)(*(name.encode() for name in files))
    data = (c_char_p * count)(*files.values())  # ONNX Runtime only reads it, and not beyond its size
    sizes = (c_size_t * count)(*(len(content) for content in files.values()))
    api.check(api.AddExternalInitializersFromFilesInMemory(options, names, data, sizes, count))


class OrtSession:
    """A model.Session on ONNX Runtime. It is freed with the last reference to it."""

    def __init__(self, api: Api, pointer: int, device: int = CPU) -> None:
        self.api = api
        self.pointer = pointer
        self._binding: Binding | None = None
        self.device = "cpu" if device < 0 else f"cuda:{device}"
        self.inputs = tuple(_specs(api, pointer, "input"))
        self.outputs = tuple(_specs(api, pointer, "output"))
        if not self.outputs:
            raise SessionError("the graph has no output")
        strings = {spec.name.encode() for spec in self.outputs if spec.dtype is DType.STRING}
        if device != CPU:
            self._binding = Binding(api, pointer, device, strings)
        self._input_names = _names(self.inputs)
        self._lanes = Lanes(api, pointer, self.inputs, self.outputs)
        # All that requests want again and again; a caller may name any choice of outputs in any order.
        self._output_names = functools.lru_cache(16)(functools.partial(_some_names, self.outputs))

    @property
    def cpu_nodes(self) -> int:
        """Nodes of the graph that run on the CPU although the session is on a GPU; 0 for a session on the CPU."""
        return self._binding.cpu_nodes if self._binding else 0

    def __del__(self) -> None:
        if self._binding:
            self._binding.close()
        self.api.ReleaseSession(self.pointer)
        give_back()

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        """See model.Session. The outputs share ONNX Runtime's memory and may be written to."""
        if not wanted:
            return []
        api = self.api
        quick = not call.terminable and not self._binding
        if quick:
            answered = self._lanes.run(inputs, wanted)
            if answered is not None:
                return answered
        # Nobody else gets a turn while the event loop runs it: there is nothing to end it with.
        options = RunOptions(api) if call.terminable else None
        names = self._output_names(tuple(wanted))
        binding = self._binding
        with Values(api, len(inputs)) as given, Values(api, len(wanted)) as got:
            for at, tensor in enumerate(inputs):
                given.put(at, tensor, binding.allocator if binding else None)
            call.begin(options.terminate if options else None)
            pointer = options.pointer if options else 0
            try:
                if binding:
                    binding.run(pointer, self._input_names, given.pointers, names, got.pointers)
                else:
                    status = api.Run(
                        self.pointer,
                        pointer,
                        self._input_names,
                        given.pointers,
                        given.count,
                        names,
                        got.count,
                        got.pointers,
                    )
                    api.check(status)
            except SessionError:
                call.check()
                raise
            finally:
                call.end()
            if call.max_output_bytes:
                got.within(call.max_output_bytes * call.requests)
            outputs = [got.take(at) for at in range(got.count)]
            if quick:
                self._lanes.ran()
            # What the GPU shares is scarce, and not the answers' to keep.
            return [Tensor(t.dtype, t.array.copy()) for t in outputs] if binding else outputs


class RunOptions:
    """Run options. They outlive the run where a caller that goes at its very end still terminates it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.pointer = api.make("CreateRunOptions")

    def terminate(self) -> None:
        """Ends the run as soon as ONNX Runtime can."""
        self._api.check(self._api.RunOptionsSetTerminate(self.pointer))

    def __del__(self) -> None:
        self._api.ReleaseRunOptions(self.pointer)


def _some_names(specs: Sequence[Spec], wanted: tuple[int, ...]) -> Any:
    return _names([specs[i] for i in wanted])


def _names(specs: Sequence[Spec]) -> Any:
    return (c_char_p * len(specs))(*(spec.name.encode() for spec in specs))


def _specs(api: Api, session: int, what: str) -> list[Spec]:
    side = what.capitalize()
    specs = []
    for i in range(api.count(f"SessionGet{side}Count", session)):
        address = api.make(f"SessionGet{side}Name", session, i, api.allocator)
        name = ctypes.cast(address, c_char_p).value or b""
        api.check(api.AllocatorFree(api.allocator, address))
        info = api.make(f"SessionGet{side}TypeInfo", session, i)
        try:
            specs.append(_spec(api, what, name, info))
        finally:
            api.ReleaseTypeInfo(info)
    return specs


def _spec(api: Api, what: str, name_bytes: bytes, info: int) -> Spec:
    try:
        name = name_bytes.decode()
    except UnicodeDecodeError:
        # No message can carry another name.
        raise SessionError(f"the name of an {what} is not UTF-8") from None
    kind = api.number("GetOnnxTypeFromTypeInfo", info)
    if kind != _TENSOR:
        text = _KINDS.get(kind, "of an unknown kind")
        raise SessionError(f"{what} {quote(name)} is {text}; only tensors are served")
    tensor = api.make("CastTypeInfoToTensorInfo", info)
    number, lengths = api.tensor_info(tensor)
    try:
        dtype = DType(number)
    except ValueError:
        raise SessionError(f"{what} {quote(name)} is of type {dtype_name(number)}, which is not served") from None
    shape = tuple(max(length, -1) for length in lengths)
    return Spec(name, dtype, shape, unranked=not api.TensorTypeAndShape_HasShape(tensor))
