# SPDX-License-Identifier: Apache-2.0
"""The command `concord` as a process: on a terminal, on pipes, and what bash does where TAB is pressed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from concord_client.command.chat import _Interrupt
from concord_proto.inference.v1 import inference_service_pb2, model_pb2, timing_pb2

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Start

LIMIT = 30.0
CONCORD = [sys.executable, "-m", "concord_command"]


@pytest.fixture
def fake(start: Start) -> FakeServer:
    """A server with a model whose features have difficult names, in red letters if a terminal obeyed."""
    server = start()
    version = server.version("1", **{"mean radius": "FLOAT", "größe (cm)": "FLOAT", "flag": "BOOL"})
    for feature in version.features:
        feature.required = False
    version.description = "\x1b[31mred\x1b]0;title\x07 " + "word " * 40
    version.predictions.add(name="p", description="漢")
    version.outputs.add(name="label", type=model_pb2.FEATURE_TYPE_STRING)
    server.serve("named", version)

    def answer(request: Any, context: Any) -> Any:
        response = inference_service_pb2.PredictResponse(model_version="1")
        response.predictions["p"] = request.features["mean radius"].float_value
        response.outputs["label"].string_value = "\x1b[31mred\x9b"
        return response

    server.predict = answer
    return server


def environment(fake: FakeServer, **more: str) -> dict[str, str]:
    names = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "CONCORD_SERVER": fake.address, "TERM": "xterm-256color", **more}


class Terminal:
    """A process whose stdin and stderr, and stdout unless it is given, are a terminal of 80 columns."""

    def __init__(self, command: list[str], env: dict[str, str], stdout: int | None = None) -> None:
        self._main, terminal = pty.openpty()
        os.set_blocking(self._main, False)
        subprocess.run(["stty", "cols", "80"], stdin=terminal, check=True, timeout=LIMIT)
        self.process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal if stdout is None else stdout,
            stderr=terminal,
            env=env,
            start_new_session=True,
        )
        os.close(terminal)
        self.seen = ""

    def send(self, text: str) -> None:
        self.seen = ""
        os.write(self._main, text.encode())

    def until(self, pattern: str) -> str:
        """What came up to where a pattern is found; fails where it does not come."""
        end = time.monotonic() + LIMIT
        while not re.search(pattern, self.seen) and self._read(end):
            pass
        assert re.search(pattern, self.seen), self.seen
        return self.seen

    def all(self) -> str:
        """What comes until the process ends."""
        end = time.monotonic() + LIMIT
        while self._read(end):
            pass
        self.process.wait(LIMIT)
        return self.seen

    def _read(self, end: float) -> bool:
        ready, _, _ = select.select([self._main], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._main, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the other side is closed
        self.seen += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)
        os.close(self._main)


@pytest.fixture
def terminal() -> Any:
    """Starts processes on terminals, and ends them."""
    made: list[Terminal] = []

    def make(*arguments: Any, **options: Any) -> Terminal:
        made.append(Terminal(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Terminal]


def piped(fake: FakeServer, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CONCORD, *arguments], input=stdin.encode(), capture_output=True, env=environment(fake, **env), timeout=LIMIT
    )


def csv_of(tmp_path: Path, rows: int) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("mean radius\n" + "".join(f"{i}\n" for i in range(rows)))
    return path


def test_a_table_on_a_terminal_is_folded(fake: FakeServer, terminal: Make) -> None:
    shown = terminal([*CONCORD, "models"], environment(fake)).all()
    assert "\x1b[1mMODEL" in shown
    assert "\x1b[31m" not in shown  # the server's escape sequences are told, not obeyed
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\\x1b[31mred" in plain
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 80
    assert plain.count("word") == 40


def test_colours_can_be_turned_off(fake: FakeServer, terminal: Make) -> None:
    assert "\x1b[31m" not in terminal([*CONCORD, "models"], environment(fake, NO_COLOR="1")).all()


def test_a_pipe_gets_words_only(fake: FakeServer, tmp_path: Path) -> None:
    rows = csv_of(tmp_path, 3000)
    for arguments in (
        ["models"],
        ["describe", "named"],
        ["predict", "named"],
        ["predict", "named", "--csv", str(rows)],
    ):
        # Even where the environment asks for colours.
        done = piped(fake, *arguments, FORCE_COLOR="1", CLICOLOR_FORCE="1", TTY_COMPATIBLE="1")
        assert done.returncode == 0
        if arguments[-1] != str(rows):  # data is what the model gave, byte for byte
            assert b"\x1b" not in done.stdout
        assert b"\x1b" not in done.stderr
        assert b"\r" not in done.stdout + done.stderr
    assert re.fullmatch(rb"3,000 rows, [0-9,]+ rows/s, [0-9.]+ s\n", done.stderr)
    assert done.stdout.count(b"\n") == 3001
    assert done.stdout.splitlines()[3000] == "3000,2999.0,\x1b[31mred\x9b,1,".encode()
    # A line is a row, however long.
    assert piped(fake, "models").stdout.splitlines()[1].count(b"word") == 40


def test_the_bar(fake: FakeServer, terminal: Make, tmp_path: Path) -> None:
    rows = csv_of(tmp_path, 5000)
    out = tmp_path / "out.csv"
    shown = terminal([*CONCORD, "predict", "named", "--csv", str(rows), "--out", str(out)], environment(fake)).all()
    assert "━" in shown
    assert "100%" in shown
    assert re.search(r"5,000 rows, [0-9,]+ rows/s, [0-9.]+ s\r?\n$", shown)
    assert out.read_text().count("\n") == 5001
    quiet = terminal(
        [*CONCORD, "predict", "named", "--csv", str(rows), "--out", str(out), "--quiet"], environment(fake)
    ).all()
    assert quiet == ""


def test_no_bar_between_answers_on_the_same_terminal(fake: FakeServer, terminal: Make, tmp_path: Path) -> None:
    shown = terminal([*CONCORD, "predict", "named", "--csv", str(csv_of(tmp_path, 3))], environment(fake)).all()
    assert "━" not in shown
    assert "3,2.0,\\x1b[31mred\\x9b,1,\r\n" in shown


def test_a_bar_while_answers_go_elsewhere(fake: FakeServer, terminal: Make, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = terminal(
            [*CONCORD, "predict", "named", "--csv", str(csv_of(tmp_path, 3000))], environment(fake), stdout=out.fileno()
        )
        assert "100%" in process.all()
    assert (tmp_path / "out").read_bytes().count(b"\n") == 3001


def test_a_reader_that_goes_away(fake: FakeServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*CONCORD, "predict", "named", "--csv", str(csv_of(tmp_path, 50_000)), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(fake),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"row,predictions.p,outputs.label,model_version,error\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LIMIT) == 1


def test_an_interrupt_ends_it_at_once(fake: FakeServer, tmp_path: Path, release: threading.Event) -> None:
    hanging = threading.Event()
    answer = fake.predict

    def hang(request: Any, context: Any) -> Any:
        if request.features["mean radius"].float_value >= 20:
            hanging.set()
            release.wait(LIMIT)
        return answer(request, context)

    fake.predict = hang
    command = ["predict", "named", "--csv", str(csv_of(tmp_path, 1000)), "--chunk", "10", "--in-flight", "2"]
    with subprocess.Popen(
        [*CONCORD, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(fake)
    ) as process:
        assert process.stdout is not None
        assert hanging.wait(LIMIT)
        lines = [process.stdout.readline() for _ in range(21)]  # the header, and two chunks that are answered
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=LIMIT)
    assert lines[-1] == b"20,19.0,\x1b[31mred\xc2\x9b,1,\n"
    assert rest == b""
    assert b"Aborted!" in told
    assert b"Traceback" not in told
    assert process.returncode == 1


def test_rows_are_answered_as_they_come(fake: FakeServer) -> None:
    command = ["predict", "named", "--json", "-", "--chunk", "1", "--in-flight", "1"]
    with subprocess.Popen(
        [*CONCORD, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(fake),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(3):
            process.stdin.write(b'{"mean radius": %d}\n' % i)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], LIMIT)
            assert ready
            assert b'"predictions": {"p": %d.0}' % i in process.stdout.readline()
        process.stdin.close()
        assert process.wait(LIMIT) == 0


def test_a_terminal_of_another_language(fake: FakeServer) -> None:
    done = piped(fake, "describe", "named", PYTHONIOENCODING="iso-8859-1")
    assert done.returncode == 0
    assert "größe (cm)" in done.stdout.decode("iso-8859-1")
    assert b"p           \\u6f22\n" in done.stdout
    # Data is UTF-8 everywhere.
    done = piped(
        fake,
        "predict",
        "named",
        "--csv",
        "-",
        "--keep",
        "größe (cm)",
        stdin="größe (cm)\n1\n",
        PYTHONIOENCODING="iso-8859-1",
    )
    assert done.stdout.decode().startswith("row,größe (cm),")


def test_grpc_keeps_silent(fake: FakeServer) -> None:
    done = piped(fake, "models", "--tls")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith(b"Error: cannot reach a server at ")
    words = {"_CONCORD_COMPLETE": "zsh_complete", "COMP_WORDS": "concord --tls predict n", "COMP_CWORD": "3"}
    done = piped(fake, **words)
    assert (done.stdout.strip(), done.stderr) == (b"", b"")


def test_completion_in_bash(fake: FakeServer, terminal: Make, tmp_path: Path) -> None:
    """What bash itself makes of it: names with blanks are quoted, HOST:PORT and name=value are no obstacle."""
    (tmp_path / "concord").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m concord_command "$@"\n')
    (tmp_path / "concord").chmod(0o755)
    env = environment(fake, TERM="dumb", PS1="$ ", LC_ALL="C.UTF-8")
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    bash = terminal(["bash", "--norc", "--noprofile", "-i"], env)
    bash.send('eval "$(concord completion bash)"; echo re""ady\n')
    bash.until("ready\r\n")
    bash.send("concord pred\tna\t")
    bash.until(r"concord predict named $")
    bash.send("mean\t")
    bash.until(r"mean\\ radius\\?=$")
    bash.send("1 'gr\t")
    bash.until(r"'größe \(cm\)='$")
    bash.send(f"2 \x15concord --server {fake.address} predict named fl\t")
    bash.until(r"named flag=$")
    bash.send("t\t")
    bash.until(r"rue $")
    bash.send("\x15concord health models/\t")
    bash.until(r"models/named $")


# --- chat ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def talker(start: Start) -> FakeServer:
    """A server whose generator says how many messages there are and what the last one is; "forever" has no end."""
    server = start()
    made = inference_service_pb2.PredictToken
    gone = threading.Event()

    def stream(request: Any, context: Any) -> Any:
        messages = json.loads(request.features["messages"].string_value)
        said = messages[-1]["content"]
        if said == "wrong":
            raise server.failure(grpc.StatusCode.INTERNAL, "MODEL_EXECUTION_FAILED", "the model failed")
        words = [str(len(messages)), " ", messages[0]["role"], ": ", said, "\x1b[31m\n"]
        for index, word in enumerate(words):
            yield made(token=word, token_id=1, token_index=index, model_version="1", request_id="r")
        if said == "forever":
            context.add_callback(gone.set)
            gone.wait(LIMIT)
            return
        yield made(
            is_final=True,
            token_index=len(words),
            model_version="1",
            request_id="r",
            seed=9,
            finish_reason=inference_service_pb2.FINISH_REASON_LENGTH,
            usage=inference_service_pb2.Usage(prompt_tokens=3, completion_tokens=len(words)),
            timing=timing_pb2.Timing(batch_rows=1, time_to_first_token_ms=20, tokens_per_second=1234),
        )

    server.stream = stream
    return server


def test_chat_from_a_pipe_is_one_conversation(talker: FakeServer) -> None:
    result = piped(talker, "chat", "m", "--system", "short", stdin="one\n\ntwo\n")
    assert result.returncode == 0
    # A program gets what the model gave.
    assert result.stdout.decode() == "2 system: one\x1b[31m\n4 system: two\x1b[31m\n"
    assert result.stderr == b""
    first, second = (json.loads(r.features["messages"].string_value) for r in talker.requests("StreamPredict"))
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == first
    assert second[2]["content"] == "2 system: one\x1b[31m\n"


def test_chat_answers_one_prompt(talker: FakeServer) -> None:
    options = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.5", "--seed", "0", "--max-tokens", "7"]
    result = piped(talker, "chat", "m", "hello", *options, "--stop", "a", "--stop", "b", "--version", "stable")
    assert result.returncode == 0
    assert result.stdout.decode() == "1 user: hello\x1b[31m\n"
    (request,) = talker.requests("StreamPredict")
    config = request.config
    assert (config.temperature, config.top_k, config.top_p, config.max_tokens) == (0.5, 3, 0.5, 7)
    assert config.HasField("seed")
    assert list(config.stop) == ["a", "b"]
    assert (request.model_id, request.model_version) == ("m", "stable")


def test_chat_tells_an_error(talker: FakeServer) -> None:
    result = piped(talker, "chat", "m", stdin="wrong\nnever\n")
    assert result.returncode == 1
    assert result.stdout == b""
    assert "INTERNAL MODEL_EXECUTION_FAILED: the model failed" in result.stderr.decode()
    assert len(talker.requests("StreamPredict")) == 1
    assert piped(talker, "chat", "m", "x", "--temperature", "-1").returncode == 2


def test_an_interrupt_is_not_raised_where_grpc_holds_a_lock() -> None:
    """It cancels from another thread; only a second one is raised. Afterwards all is as before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    cancelled: queue.Queue[threading.Thread] = queue.Queue()
    stream: Any = SimpleNamespace(cancel=lambda: cancelled.put(threading.current_thread()))
    try:
        with _Interrupt() as interrupt:
            interrupt.ends(stream)
            assert not interrupt.came
            signal.raise_signal(signal.SIGINT)
            assert interrupt.came
            assert cancelled.get(timeout=LIMIT) is not threading.main_thread()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with _Interrupt() as interrupt:  # before there is a stream
            signal.raise_signal(signal.SIGINT)
            interrupt.ends(stream)
        assert cancelled.get(timeout=LIMIT) is threading.main_thread()
    finally:
        signal.signal(signal.SIGINT, before)


def test_chat_on_a_terminal(talker: FakeServer, terminal: Make) -> None:
    chat = terminal([*CONCORD, "chat", "m"], environment(talker))
    chat.until(r"> ")
    chat.send("one\n")
    seen = chat.until(r"tokens/s(.|\n)*> ")
    # What would steer the terminal is shown instead.
    assert "1 user: one\\x1b[31m" in seen
    assert "6 tokens, 0.02 s to the first, 1,234 tokens/s" in seen
    assert "--seed 9" in seen
    chat.send("wrong\n")
    assert "MODEL_EXECUTION_FAILED" in chat.until(r"Error(.|\n)*> ")
    # Ctrl-C ends the answer; what came of it belongs to the conversation, what failed does not.
    chat.send("forever\n")
    chat.until(r"3 user: forever.*")
    chat.process.send_signal(signal.SIGINT)
    chat.until(r"\(cancelled\)(.|\n)*> ")
    chat.send("two\n")
    chat.until(r"5 user: two(.|\n)*> ")
    # A second Ctrl-C, with nothing under way, leaves. Between the prompt and the wait for a line the line editor does
    # not notice a signal: who presses so early presses again.
    for _ in range(int(LIMIT)):
        chat.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            chat.process.wait(1)
            break
    chat.all()
    assert chat.process.returncode == 130


def test_chat_ends_with_its_input(talker: FakeServer, terminal: Make) -> None:
    chat = terminal([*CONCORD, "chat", "m"], environment(talker))
    chat.until(r"> ")
    chat.send("\x04")
    chat.all()
    assert chat.process.returncode == 0


def test_an_interrupt_ends_a_single_answer(talker: FakeServer) -> None:
    with subprocess.Popen(
        [*CONCORD, "chat", "m", "forever"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(talker)
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1 user: forever\x1b[31m\n"
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert (rest, told) == (b"", b"")
