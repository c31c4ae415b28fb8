# SPDX-License-Identifier: Apache-2.0
"""The tokenizer, the template and the text of tokens, by onnxruntime-genai's C library."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from concord_server.generate import TokenizerError
from concord_server.model import SessionError
from concord_server.ort import GenAI, GenAITokenizer, genai_library, open_genai

FOLDER = Path(__file__).resolve().parents[3] / "conformance" / "fixtures" / "token-lm" / "1"
LIMIT = 20.0  # seconds that a test waits for what should happen at once
HELLO = '[{"role": "user", "content": "Hello"}]'


def files() -> dict[str, bytes]:
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return {name: (FOLDER / name).read_bytes() for name in names}


def ids(text: str) -> list[int]:
    """The tokens of a text: its bytes, after three special ones."""
    return [3 + byte for byte in text.encode()]


def rss() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def library() -> GenAI:
    return open_genai(genai_library())


@pytest.fixture(scope="module")
def tokenizer(library: GenAI) -> GenAITokenizer:
    return library.tokenizer(files())


def text_of(tokenizer: GenAITokenizer, tokens: list[int]) -> list[str]:
    stream = tokenizer.stream()
    try:
        return [stream.add(token) for token in tokens]
    finally:
        stream.close()


@pytest.mark.parametrize(
    "text", ["", "a", "Hello, world!", "h\u00e9\u4e16\U0001f412", " \n\t ", "\x01\x7f", "a" * 10_000]
)
def test_text_to_tokens_and_back(tokenizer: GenAITokenizer, text: str) -> None:
    assert tokenizer.encode(text) == ids(text)
    assert "".join(text_of(tokenizer, ids(text))) == text


def test_special_tokens(tokenizer: GenAITokenizer) -> None:
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [1, *ids("a"), 2]
    assert text_of(tokenizer, [1, *ids("a"), 2, 0]) == ["", "a", "", ""]


def test_text_comes_when_a_character_is_whole(tokenizer: GenAITokenizer) -> None:
    assert text_of(tokenizer, ids("\u3053x\U0001f412")) == ["", "", "\u3053", "x", "", "", "", "\U0001f412"]


def test_what_is_no_text_gives_none(tokenizer: GenAITokenizer) -> None:
    """Tokens that the tokenizer does not know; bytes that are no UTF-8; nothing ever that no message carries."""
    assert text_of(tokenizer, [259, 100_000, -1, 2**31 - 1, -(2**31), *ids("a")])[-1] == "a"
    source = random.Random(5)
    for _ in range(200):
        for text in text_of(tokenizer, [source.randrange(0, 260) for _ in range(40)]):
            text.encode()


def test_template(tokenizer: GenAITokenizer) -> None:
    expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.template(HELLO) == expected
    messages = [{"role": "system", "content": "\u00e9"}, {"role": "user", "content": 'a"\\u0000\n'}]
    assert tokenizer.template(json.dumps(messages)) == (
        '<|im_start|>system\n\u00e9<|im_end|>\n<|im_start|>user\na"\\u0000\n<|im_end|>\n<|im_start|>assistant\n'
    )


@pytest.mark.parametrize("messages", ["", "nonsense", "[", '[{"role":'])
def test_messages_that_are_none(tokenizer: GenAITokenizer, messages: str) -> None:
    with pytest.raises(TokenizerError):
        tokenizer.template(messages)


def test_nothing_is_cut_at_a_nul(tokenizer: GenAITokenizer) -> None:
    asked: list[tuple[Callable[[str], object], str]] = [
        (tokenizer.encode, "a\0b"),
        (tokenizer.template, '[{"role":"user","content":"a\0b"}]'),
        (tokenizer.template, '[{"role":"user","content":"a\\u0000b"}]'),
        (tokenizer.template, '[{"role":"user","content":"a\\\\\\u0000b"}]'),
    ]
    for ask, text in asked:
        with pytest.raises(TokenizerError, match="expected no NUL character, got one"):
            ask(text)


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_missing_files(library: GenAI, missing: str) -> None:
    with pytest.raises(SessionError, match=f"expected {missing}, got none"):
        library.tokenizer({name: data for name, data in files().items() if name != missing})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[1]"),
        ("tokenizer_config.json", b'{"tokenizer_class":"NoSuch"}'),
    ],
)
def test_files_that_are_none(library: GenAI, name: str, data: bytes) -> None:
    with pytest.raises(SessionError):
        library.tokenizer({**files(), name: data}).encode("a")


def without_template() -> dict[str, bytes]:
    given = files()
    del given["chat_template.jinja"]
    config = json.loads(given["tokenizer_config.json"])
    config.pop("chat_template", None)
    return {**given, "tokenizer_config.json": json.dumps(config).encode()}


def test_without_a_template(library: GenAI) -> None:
    tokenizer = library.tokenizer(without_template())
    assert tokenizer.encode("a") == ids("a")
    with pytest.raises(TokenizerError, match="Empty chat template"):
        tokenizer.template(HELLO)


@pytest.mark.parametrize(
    ("template", "text"),
    [("{{", "Invalid"), ("{{ a.b }}", "not defined"), ("{{ raise_exception('no such role') }}", "no such role")],
)
def test_templates_that_fail(library: GenAI, template: str, text: str) -> None:
    tokenizer = library.tokenizer({**without_template(), "chat_template.jinja": template.encode()})
    with pytest.raises(TokenizerError, match=text):
        tokenizer.template(HELLO)


def test_nothing_is_left_on_the_disk(library: GenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    library.tokenizer(files())
    with pytest.raises(SessionError):
        library.tokenizer({**files(), "tokenizer.json": b"{"})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(SessionError, match="the tokenizer's files cannot be written"):
        library.tokenizer(files())


def test_ten_thousand_prompts_and_streams_leave_nothing(library: GenAI, tokenizer: GenAITokenizer) -> None:
    def use(count: int) -> None:
        for i in range(count):
            tokenizer.encode(f"prompt {i}")
            tokenizer.template(HELLO)
            stream = tokenizer.stream()
            for token in ids("\u3053x"):
                stream.add(token)
            if i % 2:
                stream.close()
            if i % 50 == 0:
                library.tokenizer(files())

    use(1_000)
    before = rss()
    use(10_000)
    assert rss() - before < 2 << 20


def test_several_threads_at_once(tokenizer: GenAITokenizer) -> None:
    texts = ["abc" * 50, "h\u00e9llo w\u00f6rld " * 20, "\u4e16\u754c" * 30]
    wrong: list[str] = []

    def encode() -> None:
        for i in range(300):
            text = texts[i % 3]
            if tokenizer.encode(text) != ids(text):
                wrong.append("encode")

    def decode() -> None:
        for i in range(100):
            text = texts[i % 3]
            if "".join(text_of(tokenizer, ids(text))) != text:
                wrong.append("decode")

    def template() -> None:
        for i in range(300):
            if f"user\n{i}<" not in tokenizer.template(json.dumps([{"role": "user", "content": str(i)}])):
                wrong.append("template")

    threads = [threading.Thread(target=work) for work in (encode, encode, decode, decode, template, template)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT * 3)
    assert wrong == []


def test_other_threads_go_on_meanwhile(tokenizer: GenAITokenizer) -> None:
    """While a long prompt is encoded, a stream goes on, and so does whoever holds no lock of ours."""
    stream = tokenizer.stream()
    done = threading.Event()

    def encode() -> None:
        tokenizer.encode("abcdefgh " * 200_000)
        done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    turns = 0
    end = time.monotonic() + LIMIT
    while not done.is_set() and time.monotonic() < end:
        assert stream.add(ids("a")[0]) == "a"
        turns += 1
        time.sleep(0)
    thread.join(LIMIT)
    assert turns > 100


def test_closed(library: GenAI) -> None:
    tokenizer = library.tokenizer(files())
    stream = tokenizer.stream()
    tokenizer.close()
    tokenizer.close()
    assert stream.add(ids("a")[0]) == "a"  # it keeps what it needs
    stream.close()
    stream.close()
    for use in (
        lambda: stream.add(5),
        lambda: tokenizer.encode("a"),
        lambda: tokenizer.template(HELLO),
        tokenizer.stream,
    ):
        with pytest.raises(TokenizerError, match="closed"):
            use()


def test_where_the_library_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert genai_library().name == "libonnxruntime-genai.so"
    given = tmp_path / "library"
    given.touch()
    assert genai_library(str(given)) == given
    with pytest.raises(FileNotFoundError, match="onnxruntime_genai names no file"):
        genai_library(str(tmp_path / "none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="needs the package onnxruntime-genai, which is not installed"):
        genai_library()


def test_a_file_that_is_no_such_library(tmp_path: Path) -> None:
    given = tmp_path / "library"
    given.write_bytes(b"nothing")
    with pytest.raises(SessionError) as raised:
        GenAI(given)
    assert str(tmp_path) not in str(raised.value)
    with pytest.raises(SessionError, match=r"expected the library of onnxruntime-genai 0\.18"):
        GenAI(Path("libc.so.6"))


def test_its_python_package_is_not_imported_and_nothing_is_sent() -> None:
    code = (
        "import os, sys\n"
        "from concord_server.ort import open_genai, genai_library\n"
        "open_genai(genai_library())\n"
        "assert not [name for name in sys.modules if name.startswith('onnxruntime')], 'imported'\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)


def test_bytes_without_a_token_are_left_out(library: GenAI) -> None:
    # A vocabulary may lack bytes: SmolLM2's lacks 21 of them.
    given = files()
    document = json.loads(given["tokenizer.json"])
    del document["model"]["vocab"]["\u0104"]
    tokenizer = library.tokenizer({**given, "tokenizer.json": json.dumps(document).encode()})
    assert tokenizer.encode("a\x04b") == ids("ab")
    assert tokenizer.encode("\x04") == []
    tokenizer.close()
