# SPDX-License-Identifier: Apache-2.0
"""A generate.Decoder on a session of ONNX Runtime: fixed memory for keys and values, which each run adds to in place.

Past and present are the same memory, [rows, heads, context, head size] of consecutive slots. How much of it a row uses
its attention mask says, so rows of any lengths share a run. The memory is the system's until a run touches it.

A run costs a handful of calls: everything that stays the same from one token to the next is bound once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_server.generate import Logits, Row, Sizes
from concord_server.generate.settings import Settings, layer_name
from concord_server.model import Call, SessionError
from concord_server.ort.api import Api
from concord_server.ort.session import OrtSession, RunOptions
from concord_server.ort.signature import Signature, probe, signature
from concord_server.tensor import DType

__all__ = ["OrtDecoder", "processors"]

_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.FLOAT: np.dtype(np.float32),
    DType.FLOAT16: np.dtype(np.float16),
    DType.INT64: np.dtype(np.int64),
}

# Of the logits of one run of a graph that gives them for each token: a longer prompt takes several runs.
_MAX_LOGITS_BYTES = 32 << 20


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OrtDecoder:
    """See generate.Decoder. It is freed with the last reference to it, if not before."""

    def __init__(self, session: OrtSession, settings: Settings, sizes: Sizes) -> None:
        """Raises SessionError where the graph is not what its settings say, or where the memory holds no token."""
        found = signature(settings, session.inputs, session.outputs)
        self._last_only = probe(settings, found, session)
        number_bytes = _NUMPY[found.cache].itemsize
        self.slots = sizes.slots
        self.context = settings.fit(sizes.slots, sizes.bytes, number_bytes)
        if not self.context:
            least = settings.cache_bytes(number_bytes) * sizes.slots
            raise SessionError(f"expected memory for one token in each of {sizes.slots} slots, {least} bytes, got less")
        self.vocabulary = settings.vocabulary
        self.end_tokens = settings.end_tokens
        self.cache_bytes = settings.cache_bytes(number_bytes) * self.context * sizes.slots
        self._session: OrtSession | None = session
        self._api = session.api
        self._memory = _Memory(settings, found, self.slots, self.context)
        self._options: RunOptions | None = None
        self._bindings: dict[tuple[int, int, bool], _Binding] = {}
        self._most = self.context
        if not self._last_only:
            self._most = max(1, _MAX_LOGITS_BYTES // (self.vocabulary * self._memory.logits.itemsize))

    def run(self, rows: Sequence[Row], call: Call) -> Sequence[Logits]:
        """See generate.Decoder."""
        self._check(rows)
        if len(rows) == 1 and len(rows[0].tokens) > 1:
            return self._run_many(rows[0], call)
        memory = self._memory
        first, count = (rows[0].slot, 1) if len(rows) == 1 else (0, rows[-1].slot + 1)
        ids, lengths = memory.ids, memory.lengths
        if count > len(rows):
            ids[:count] = 0
            lengths[:count] = 1
        for slot, position, (token,) in rows:
            ids[slot - first] = token
            lengths[slot - first] = position + 1
        binding = self._binding(first, count)
        if count == len(rows):
            self._execute(binding, memory.mask(count), call)
        else:
            # Whoever takes no part this time gets a first token that nobody asked for.
            idle = sorted({*range(count)} - {row.slot for row in rows})
            kept = memory.cache[:, idle, :, 0]
            try:
                self._execute(binding, memory.mask(count), call)
            finally:
                memory.cache[:, idle, :, 0] = kept
        logits = memory.given(count)
        return [logits[row.slot - first] for row in rows]

    def move(self, source: int, target: int, tokens: int) -> None:
        """See generate.Decoder."""
        if not (0 <= source < self.slots and 0 <= target < self.slots and 0 <= tokens <= self.context):
            raise SessionError(f"{tokens} tokens of slot {source} to slot {target} of {self.slots}: out of range")
        if source != target:
            cache = self._memory.cache
            cache[:, target, :, :tokens] = cache[:, source, :, :tokens]

    def close(self) -> None:
        """See generate.Decoder."""
        for binding in self._bindings.values():
            binding.close()
        self._bindings = {}
        self._session = None
        self._memory.cache = np.zeros((0, 0, 0, 0, 0), np.float32)

    def __del__(self) -> None:
        if hasattr(self, "_bindings"):
            self.close()

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuses what would reach beyond a slot before ONNX Runtime sees it."""
        if not rows:
            raise SessionError("expected a row, got none")
        before, joint = -1, len(rows) > 1
        for slot, position, tokens in rows:
            count = len(tokens)
            if not before < slot < self.slots:
                raise SessionError(f"expected a slot from {before + 1} to {self.slots - 1}, got {slot}")
            if count == 0 or (joint and count > 1):
                raise SessionError(f"slot {slot}: expected one token, got {count}")
            if position < 0:
                raise SessionError(f"slot {slot}: expected a position from 0, got {position}")
            if position + count > self.context:
                raise SessionError(f"slot {slot}: expected at most {self.context} tokens, got {position + count}")
            if min(tokens) < 0 or max(tokens) >= self.vocabulary:
                bad = next(token for token in tokens if not 0 <= token < self.vocabulary)
                raise SessionError(f"slot {slot}: expected tokens from 0 to {self.vocabulary - 1}, got {bad}")
            before = slot

    def _run_many(self, row: Row, call: Call) -> Sequence[Logits]:
        """A piece of a prompt, which may itself take several runs."""
        memory, names = self._memory, self._memory.names
        binding = self._binding(row.slot, 1, many=True)
        for start in range(0, len(row.tokens), self._most):
            ids = np.array(row.tokens[start : start + self._most], np.int64).reshape(1, -1)
            first, count = row.position + start, ids.size
            binding.put(names.input_ids, ids)
            if names.position_ids:
                binding.put(names.position_ids, np.arange(first, first + count, dtype=np.int64).reshape(1, -1))
            mask = memory.ones[: first + count].reshape(1, -1)
            if self._last_only:
                binding.take(names.logits, memory.logits[:1].reshape(1, 1, -1))
                self._execute(binding, mask, call)
            else:
                every = np.empty((1, count, self.vocabulary), memory.logits.dtype)
                binding.take(names.logits, every)
                self._execute(binding, mask, call)
                memory.logits[0] = every[0, -1]
        return [memory.given(1)[0]]

    def _binding(self, first: int, count: int, *, many: bool = False) -> _Binding:
        if self._session is None:
            raise SessionError("the decoder is closed")
        key = first, count, many
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = _Binding(self._api, self._session.pointer)
            self._memory.bind(binding, first, count, many=many)
        return binding

    def _execute(self, binding: _Binding, mask: npt.NDArray[np.int64], call: Call) -> None:
        api, session, options = self._api, self._session, self._options
        if session is None:
            raise SessionError("the decoder is closed")
        if options is None:
            options = self._options = RunOptions(api)
        binding.put(self._memory.names.attention_mask, mask)
        try:
            call.begin(options.terminate)
            failed = api.RunWithBinding(session.pointer, options.pointer, binding.pointer)
        finally:
            call.end()
            if call.cancelled:
                # Whoever cancels at the very end still terminates these, and the next run must not notice.
                self._options = None
        if failed:
            try:
                api.check(failed)
            except SessionError:
                call.check()
                raise


class _Names:
    """Of the graph's inputs and outputs, as the C API takes them."""

    def __init__(self, settings: Settings, found: Signature) -> None:
        self.input_ids = settings.input_ids.encode()
        self.attention_mask = settings.attention_mask.encode()
        self.position_ids = settings.position_ids.encode() if found.positions else b""
        self.logits = settings.logits.encode()
        past, present = (settings.past_key, settings.past_value), (settings.present_key, settings.present_value)
        layers = range(settings.layers)
        self.past = [layer_name(name, layer).encode() for layer in layers for name in past]
        self.present = [layer_name(name, layer).encode() for layer in layers for name in present]


class _Memory:
    """What runs read and write."""

    def __init__(self, settings: Settings, found: Signature, slots: int, context: int) -> None:
        self.names = _Names(settings, found)
        shape = 2 * settings.layers, slots, settings.heads, context, settings.head_size
        self.cache: npt.NDArray[Any] = np.zeros(shape, _NUMPY[found.cache])
        """Keys and values by layer, slot, head and token."""
        self.ids = np.zeros(slots, np.int64)
        self.positions = np.zeros(slots, np.int64)
        self.lengths = np.ones(slots, np.int64)
        """Tokens of each row, with the one that comes."""
        self.logits: npt.NDArray[Any] = np.zeros((slots, settings.vocabulary), _NUMPY[found.logits])
        # What callers get is float32.
        self._given: Logits = self.logits
        if found.logits is DType.FLOAT16:
            self._given = np.zeros(self.logits.shape, np.float32)
        self.ones = np.ones(context, np.int64)
        self._mask = np.zeros(slots * context, np.int64)
        self._tokens = np.arange(context)

    def bind(self, binding: _Binding, first: int, count: int, *, many: bool) -> None:
        """Binds what stays: all of `count` slots from the first on, for one token each unless many come."""
        names, rows = self.names, slice(first, first + count)
        if not many:
            binding.put(names.input_ids, self.ids[:count].reshape(count, 1))
            if names.position_ids:
                binding.put(names.position_ids, self.positions[:count].reshape(count, 1))
            binding.take(names.logits, self.logits[:count].reshape(count, 1, -1))
        for past, present, cache in zip(names.past, names.present, self.cache, strict=True):
            binding.put(past, cache[rows])
            binding.take(present, cache[rows])

    def mask(self, count: int) -> npt.NDArray[np.int64]:
        """The attention mask of one more token in each of the first rows; it also sets their positions."""
        lengths = self.lengths[:count]
        np.subtract(lengths, 1, out=self.positions[:count])
        longest = int(lengths.max()) if count > 1 else int(lengths[0])
        if count == 1:
            return self.ones[:longest].reshape(1, longest)
        mask = self._mask[: count * longest].reshape(count, longest)
        np.less(self._tokens[:longest], lengths[:, None], out=mask)
        return mask

    def given(self, count: int) -> Logits:
        """The logits of the first rows."""
        if self._given is not self.logits:
            self._given[:count] = self.logits[:count]
        return self._given


class _Binding:
    """What a run reads and writes, by name. It keeps the memory that it is told of alive."""

    def __init__(self, api: Api, session: int) -> None:
        self._api = api
        self.pointer = api.make("CreateIoBinding", session)
        self._kept: dict[bytes, npt.NDArray[Any]] = {}
        self._value = c_void_p()
        self._to_value = byref(self._value)
        self._shapes = {rank: (c_int64 * rank)() for rank in (2, 3, 4)}

    def put(self, name: bytes, array: npt.NDArray[Any]) -> None:
        """Binds an input, which stays where it is."""
        self._bind(self._api.BindInputNow, name, array)

    def take(self, name: bytes, array: npt.NDArray[Any]) -> None:
        """Binds an output, which goes there."""
        self._bind(self._api.BindOutput, name, array)

    def _bind(self, bind: Any, name: bytes, array: npt.NDArray[Any]) -> None:
        api, rank = self._api, array.ndim
        shape = self._shapes[rank]
        shape[:] = array.shape  # type: ignore[call-overload]  # a tuple does as well as a list
        address = array.__array_interface__["data"][0]
        failed = api.CreateTensorWithDataAsOrtValue(
            api.cpu_memory, address, array.nbytes, shape, rank, _KINDS[array.dtype.char], self._to_value
        )
        if failed:
            api.check(failed)
        failed = bind(self.pointer, name, self._value)
        api.ReleaseValue(self._value)  # the binding has its own reference
        if failed:
            api.check(failed)
        self._kept[name] = array

    def close(self) -> None:
        """Frees it."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._api.ReleaseIoBinding(pointer)


_KINDS = {_NUMPY[dtype].char: dtype.value for dtype in _NUMPY}
