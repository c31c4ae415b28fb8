# SPDX-License-Identifier: Apache-2.0
"""onnxruntime-genai's C library: the tokenizer of a package, its chat template, and the text of tokens as they come.

Its own Python interface holds the interpreter's lock for as long as a prompt takes to encode; through ctypes the other
threads go on. Nothing here runs a network.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from ctypes import POINTER, byref, c_bool, c_char_p, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from concord_server.generate import GENAI_CONFIG, TokenizerError
from concord_server.model import SessionError
from concord_server.ort.session import api

__all__ = ["GenAI", "GenAITokenizer", "UnwrittenError", "genai_library", "open_genai", "tokenizer_folder"]

_LIBRARY = "libonnxruntime-genai.so"

# The tokenizer wants a configuration beside its files, of which it needs this alone. The package's own could make the
# library load providers and other files.
_CONFIG = b'{"model":{"context_length":1}}'
_NEEDED = ("tokenizer.json", "tokenizer_config.json")

# Whether an escape stands for NUL depends on how many backslashes are before it.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NUL = "expected no NUL character, got one"

_out = POINTER(c_void_p)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "OgaSetTelemetryEnabled": (None, (c_bool,)),
    "OgaResultGetError": (c_char_p, (c_void_p,)),
    "OgaDestroyResult": (None, (c_void_p,)),
    "OgaCreateTokenizerFromPath": (c_void_p, (c_char_p, _out)),
    "OgaDestroyTokenizer": (None, (c_void_p,)),
    "OgaTokenizerApplyChatTemplate": (c_void_p, (c_void_p, c_char_p, c_char_p, c_char_p, c_bool, _out)),
    "OgaDestroyString": (None, (c_void_p,)),
    "OgaCreateSequences": (c_void_p, (_out,)),
    "OgaDestroySequences": (None, (c_void_p,)),
    "OgaTokenizerEncode": (c_void_p, (c_void_p, c_char_p, c_void_p)),
    "OgaSequencesCount": (c_size_t, (c_void_p,)),
    "OgaSequencesGetSequenceCount": (c_size_t, (c_void_p, c_size_t)),
    "OgaSequencesGetSequenceData": (POINTER(c_int32), (c_void_p, c_size_t)),
    "OgaCreateTokenizerStream": (c_void_p, (c_void_p, _out)),
    "OgaDestroyTokenizerStream": (None, (c_void_p,)),
    "OgaTokenizerStreamDecode": (c_void_p, (c_void_p, c_int32, POINTER(c_char_p))),
}

# These may take long: other threads go on meanwhile. The rest take a microsecond or so, and a thread that lets go of
# the interpreter's lock for that may wait milliseconds until it has it again.
_LONG = {
    "OgaCreateTokenizerFromPath",
    "OgaDestroyTokenizer",
    "OgaTokenizerApplyChatTemplate",
    "OgaTokenizerEncode",
}


def genai_library(setting: str = "") -> Path:
    """The file that the setting onnxruntime_genai names, else the installed package's, which is not imported.

    Raises FileNotFoundError, with a text for callers, where there is none.
    """
    if setting:
        path = Path(setting)
        if not path.is_file():
            raise FileNotFoundError("onnxruntime_genai names no file")
        return path
    spec = importlib.util.find_spec("onnxruntime_genai")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / _LIBRARY
        if path.is_file():
            return path
    raise FileNotFoundError("text generation needs the package onnxruntime-genai, which is not installed")


@functools.cache
def open_genai(path: Path) -> GenAI:
    """The library, loaded once for the process. Raises SessionError where it cannot be."""
    return GenAI(path)


class GenAI:
    """The library's functions. It stays loaded for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        """Raises SessionError where the file is no such library."""
        # It ends the process where it finds no libonnxruntime; one that is loaded already it finds by its name.
        api()
        # Official builds send telemetry unless told not to before they load.
        for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "ORT_GENAI_TELEMETRY_DISABLED"):
            os.environ[name] = "1"
        try:
            loaded = ctypes.CDLL(os.fspath(path))
            at_once = ctypes.PyDLL(os.fspath(path))
        except OSError:
            raise SessionError(f"{_LIBRARY} cannot be loaded") from None
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            try:
                function = getattr(loaded if name in _LONG else at_once, name)
            except AttributeError:
                raise SessionError(f"expected the library of onnxruntime-genai 0.18, got one without {name}") from None
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function
        self.call("OgaSetTelemetryEnabled", False)

    def function(self, name: str) -> Callable[..., Any]:
        """A function by its name."""
        return self._functions[name]

    def call(self, name: str, *arguments: Any) -> Any:
        """What a function gives that cannot fail."""
        return self._functions[name](*arguments)

    def check(self, name: str, *arguments: Any) -> None:
        """Calls a function that may fail. Raises TokenizerError, with the library's own message."""
        result = self._functions[name](*arguments)
        if result:
            self.fail(result)

    def fail(self, result: int) -> None:
        """Raises the TokenizerError of a result."""
        message: bytes = self.call("OgaResultGetError", result) or b""
        self.call("OgaDestroyResult", result)
        # Further lines draw where in a template it happened.
        text, _, _ = message.decode("utf-8", "replace").partition("\n")
        raise TokenizerError(text)

    def make(self, name: str, *arguments: Any) -> int:
        """What a function gives through its last argument. Raises TokenizerError."""
        made = c_void_p()
        self.check(name, *arguments, byref(made))
        return made.value or 0

    def tokenizer(self, files: Mapping[str, bytes]) -> GenAITokenizer:
        """The tokenizer of a package's files. Raises SessionError where the library refuses them."""
        with tokenizer_folder(files) as folder:
            return self.tokenizer_from(folder)

    def tokenizer_from(self, folder: str) -> GenAITokenizer:
        """The same, of what tokenizer_folder wrote."""
        try:
            return GenAITokenizer(self, self.make("OgaCreateTokenizerFromPath", os.fsencode(folder)))
        except TokenizerError as error:
            raise SessionError(str(error)) from None


class UnwrittenError(SessionError):
    """A tokenizer's files cannot be written, which is no fault of theirs."""

    def __init__(self) -> None:
        super().__init__("the tokenizer's files cannot be written")


@contextlib.contextmanager
def tokenizer_folder(files: Mapping[str, bytes]) -> Iterator[str]:
    """A folder with what a tokenizer is made of, which nobody else can read, and which is gone afterwards.

    Raises UnwrittenError, or SessionError where a file is missing.
    """
    for name in _NEEDED:
        if not files.get(name):
            raise SessionError(f"expected {name}, got none")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="concord-"))
            for name, data in {**files, GENAI_CONFIG: _CONFIG}.items():
                Path(folder, name).write_bytes(data)
        except OSError:
            raise UnwrittenError from None
        yield folder


class GenAITokenizer:
    """A generate.Tokenizer. It is freed with the last reference to it, if not before."""

    def __init__(self, library: GenAI, pointer: int) -> None:
        self._library = library
        self._pointer = pointer
        # The library promises nothing to several threads. Its streams have their own state and need no lock: a long
        # prompt must not stop those that run.
        self._lock = threading.Lock()

    def template(self, messages: str) -> str:
        """See generate.Tokenizer."""
        if "\0" in messages or _ESCAPED_NUL.search(messages):
            raise TokenizerError(_NUL)
        library = self._library
        with self._lock:
            self._check_open()
            made = library.make("OgaTokenizerApplyChatTemplate", self._pointer, None, messages.encode(), None, True)
        try:
            return ctypes.string_at(made).decode("utf-8", "replace")
        finally:
            library.call("OgaDestroyString", made)

    def encode(self, text: str) -> list[int]:
        """See generate.Tokenizer."""
        if "\0" in text:
            raise TokenizerError(_NUL)
        library = self._library
        sequences = library.make("OgaCreateSequences")
        try:
            with self._lock:
                self._check_open()
                library.check("OgaTokenizerEncode", self._pointer, text.encode(), sequences)
            if not library.call("OgaSequencesCount", sequences):
                return []
            count = library.call("OgaSequencesGetSequenceCount", sequences, 0)
            tokens: list[int] = library.call("OgaSequencesGetSequenceData", sequences, 0)[:count] if count else []
            # A byte that the vocabulary lacks, as SmolLM2's lacks control characters, has -1 here, and no token in
            # Hugging Face's tokenizers.
            return [token for token in tokens if token >= 0] if tokens and min(tokens) < 0 else tokens
        finally:
            library.call("OgaDestroySequences", sequences)

    def stream(self) -> GenAIStream:
        """See generate.Tokenizer."""
        with self._lock:
            self._check_open()
            return GenAIStream(self._library, self._library.make("OgaCreateTokenizerStream", self._pointer))

    def close(self) -> None:
        """See generate.Tokenizer."""
        with self._lock:
            pointer, self._pointer = self._pointer, 0
        if pointer:
            self._library.call("OgaDestroyTokenizer", pointer)

    def _check_open(self) -> None:
        if not self._pointer:
            raise TokenizerError("the tokenizer is closed")

    def __del__(self) -> None:
        self.close()


class GenAIStream:
    """A generate.TextStream. Bytes that are no UTF-8 give no text, neither amid it nor at the end."""

    def __init__(self, library: GenAI, pointer: int) -> None:
        self._library = library
        self._pointer = pointer
        self._decode = library.function("OgaTokenizerStreamDecode")
        self._text = c_char_p()
        self._to_text = byref(self._text)

    def add(self, token: int) -> str:
        """See generate.TextStream. A token that the tokenizer does not know, or a special one, has no text."""
        if not self._pointer:
            raise TokenizerError("the stream is closed")
        result = self._decode(self._pointer, token, self._to_text)
        if result:
            self._library.fail(result)
        text = self._text.value
        return text.decode("utf-8", "replace") if text else ""

    def close(self) -> None:
        """See generate.TextStream."""
        pointer, self._pointer = self._pointer, 0
        if pointer:
            self._library.call("OgaDestroyTokenizerStream", pointer)

    def __del__(self) -> None:
        self.close()
