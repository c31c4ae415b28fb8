# SPDX-License-Identifier: Apache-2.0
"""Text generation of both servers beside the bare decode loop: `python -m bench.generate`.

The bare loop is the same graph on the same ONNX Runtime with the same threads, in this process: prompt in, the token
of the greatest logit out, again; no tokenizer, no sampling, no server. Servers are all started at the beginning and
idle while another one, or the bare loop, is measured; in each round everything is measured once, in turn. Ratios are of
two measures in the same round; told is their median.

A small model has steps of microseconds, in which the CPU of a token shows what a server adds; all else is measured
on a large one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import numpy as np
from concord_proto.inference.v1 import inference_service_pb2 as pb
from concord_proto.inference.v1 import inference_service_pb2_grpc
from concord_server import ort
from concord_server.generate import GENAI_CONFIG, Package, Row, Sizes
from concord_server.model import Call

from bench.machine import describe

START_SECONDS, STOP_SECONDS, CALL_SECONDS = 180.0, 20.0, 300.0
SERVERS = ("go=bin/inference-server", "python=.venv/bin/python -m concord_server")
STORY = {"tiny-chat": "Tell me a story."}
LONG_STORY = "Write a very long story about a river, a bridge and the people who live near them."
FRANCE = "What is the capital of France?"
STREAMS = 4
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Goal:
    """What a figure should be, and what it is of."""

    name: str
    text: str
    most: float = float("inf")
    least: float = 0.0

    def met(self, value: float) -> bool:
        """Whether a figure is within it."""
        return self.least <= value <= self.most


GOALS = {
    goal.name: goal
    for goal in (
        Goal("one stream / bare loop", "tokens/s of one stream, of the bare loop's", least=0.95),
        Goal("4 streams / one", "tokens/s of four streams together, of one's", least=1.4),
        Goal("first token / bare prefill", "time to the first token, of the bare prefill's", most=1.25),
        Goal("first token / bare prefill, long prompt", "the same of a long prompt", most=1.25),
        Goal("longest gap / usual", "while a long prompt joins three streams: their longest gap, of the usual", most=4),
        Goal("slots free within a step, %", "of all cancels", least=95),
    )
}
OVERHEAD = {"go": 50.0, "python": 300.0}  # us of CPU for a token, at most


@dataclass
class Series:
    """Every single measurement, by server and figure."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, server: str, figure: str, value: float) -> None:
        """One measurement."""
        self.values.setdefault(server, {}).setdefault(figure, []).append(value)

    def median(self, server: str, figure: str) -> float:
        """Of all rounds."""
        return statistics.median(self.values[server][figure])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its descendants."""
    total = 0.0
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            own = int(path.parent.name)
            children.setdefault(int(fields[1]), []).append(own)
            times[own] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        total += times.get(one, 0.0)
        waiting += children.get(one, [])
    return total


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Bare:
    """The bare decode loop."""

    def __init__(self, folder: Path) -> None:
        contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        graph = contents.pop("model.onnx")
        external = {name: contents.pop(name) for name in list(contents) if name.endswith(".data")}
        package = Package(graph, external, contents)
        self.tokenizer, self.decoder = ort.Generators()(package, Sizes(STREAMS))
        self._call = Call()

    def prompt(self, text: str) -> list[int]:
        """The tokens of what a user says."""
        return self.tokenizer.encode(self.tokenizer.template(json.dumps([{"role": "user", "content": text}])))

    def prefill(self, tokens: Sequence[int], slot: int = 0) -> tuple[float, int]:
        """Seconds of the whole prompt in one run, and the token that comes."""
        begin = time.perf_counter()
        (logits,) = self.decoder.run([Row(slot, 0, tokens)], self._call)
        token = int(np.argmax(logits))
        return time.perf_counter() - begin, token

    def decode(self, prompt: Sequence[int], streams: int, count: int) -> float:
        """Tokens in a second, of all streams together, after their prompts."""
        made = [self.prefill(prompt, slot)[1] for slot in range(streams)]
        position = len(prompt)
        begin = time.perf_counter()
        for _ in range(count):
            rows = [Row(slot, position, [token]) for slot, token in enumerate(made)]
            made = [int(np.argmax(logits)) for logits in self.decoder.run(rows, self._call)]
            position += 1
        return streams * count / (time.perf_counter() - begin)

    def cpu_us(self, prompt: Sequence[int], count: int, texts: int) -> float:
        """Microseconds of CPU for a token, of texts one after the other with their prompts."""
        begin = time.process_time()
        for _ in range(texts):
            _, token = self.prefill(prompt)
            for position in range(len(prompt), len(prompt) + count - 1):
                (logits,) = self.decoder.run([Row(0, position, [token])], self._call)
                token = int(np.argmax(logits))
        return (time.process_time() - begin) / (texts * count) * 1e6


class Stream:
    """One text under way: when each token came."""

    def __init__(self, server: Server, prompt: str, most: int) -> None:
        request = pb.PredictRequest(model_id=server.model)
        request.features["prompt"].string_value = prompt
        request.config.max_tokens = most
        self.times: list[float] = []
        self.text = ""
        self.final: pb.PredictToken | None = None
        self.error = ""
        self.begin = time.perf_counter()
        self.call = server.stub.StreamPredict(request, timeout=CALL_SECONDS)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for token in self.call:
                if token.is_final:
                    self.final = token
                else:
                    self.times.append(time.perf_counter())
                    self.text += token.token
        except grpc.RpcError as error:
            self.error = str(error.code().name)

    def wait(self) -> Stream:
        """Until its end."""
        self._thread.join(CALL_SECONDS)
        return self

    def reach(self, count: int) -> None:
        """Until it has so many tokens, or its end."""
        while len(self.times) < count and self._thread.is_alive():
            time.sleep(0.001)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.begin

    @property
    def rate(self) -> float:
        """Tokens in a second, from the first to the last."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


class Server:
    """One server that runs."""

    def __init__(self, name: str, command: str, models: Path, model: str, extra: Sequence[str], log: IO[bytes]) -> None:
        self.name, self.model = name, model
        arguments = ["--models", str(models), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *extra]
        self.process = subprocess.Popen(  # noqa: S603 - the servers that are measured
            [*shlex.split(command), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        self.pid = self.process.pid
        self._ready: dict[str, Any] = {}
        reader = threading.Thread(target=self._hear, args=(self.process.stdout,), daemon=True)
        reader.start()
        reader.join(START_SECONDS)
        if not self._ready:
            self.stop()
            raise SystemExit(f"{name}: the server was not ready within {START_SECONDS:.0f} s")
        self.channel = grpc.insecure_channel(self._ready["grpc"])
        self.stub = inference_service_pb2_grpc.InferenceServiceStub(self.channel)

    def _hear(self, stdout: IO[bytes] | None) -> None:
        line = stdout.readline() if stdout else b""
        if line:
            self._ready = json.loads(line)

    def stop(self) -> None:
        """SIGTERM; who stays is killed, with the group that it started in, which is its own."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def running(self) -> int:
        """Texts that hold a slot."""
        with urllib.request.urlopen(f"http://{self._ready['http']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        total = 0.0
        for line in text.splitlines():
            if line.startswith("inference_generations{") and 'state="running"' in line and f'"{self.model}"' in line:
                total += float(line.rpartition(" ")[2])
        return int(total)

    def text(self, prompt: str, most: int) -> Stream:
        """A text to its end. Raises SystemExit where it fails."""
        stream = Stream(self, prompt, most).wait()
        if stream.error or stream.final is None:
            raise SystemExit(f"{self.name}: {stream.error or 'the stream did not end'}")
        return stream


@dataclass(frozen=True)
class Work:
    """What is asked."""

    story: str
    count: int
    """Tokens of a story."""
    long: str
    """A long prompt."""
    cancels: int
    texts: int
    """Stories of which CPU is measured, in each round."""


def long_prompt(bare: Bare, tokens: int) -> str:
    """A prompt of about so many tokens."""
    sentence = "The river runs under the old bridge, and nobody counts the boats that pass. "
    each = len(bare.tokenizer.encode(sentence))
    text = sentence * (tokens // each)
    while len(bare.prompt(text)) > tokens:
        text = text[: -len(sentence)]
    return text


def one_round(bare: Bare, servers: Sequence[Server], work: Work, series: Series) -> None:
    """Everything once, in turn."""
    story, long = bare.prompt(work.story), bare.prompt(work.long)
    loop = bare.decode(story, 1, work.count)
    series.add("bare", "one stream, tokens/s", loop)
    for server in servers:
        stream = server.text(work.story, work.count)
        series.add(server.name, "one stream, tokens/s", stream.rate)
        series.add(server.name, "one stream / bare loop", stream.rate / loop)
    series.add("bare", "4 streams, tokens/s", bare.decode(story, STREAMS, work.count))
    for server in servers:
        together = rate_together(server, work)
        series.add(server.name, "4 streams, tokens/s", together)
        alone = series.values[server.name]["one stream, tokens/s"][-1]
        series.add(server.name, "4 streams / one", together / alone)
    for name, tokens, text in (("", story, work.story), (", long prompt", long, work.long)):
        prefill = bare.prefill(tokens)[0]
        series.add("bare", f"prefill{name}, ms", prefill * 1e3)
        for server in servers:
            first = server.text(text, 1).first
            series.add(server.name, f"first token{name}, ms", first * 1e3)
            series.add(server.name, f"first token / bare prefill{name}", first / prefill)
    for server in servers:
        usual, longest, first = gaps(server, work)
        series.add(server.name, "usual gap of 3 streams, ms", usual * 1e3)
        series.add(server.name, "longest gap while a long prompt joins, ms", longest * 1e3)
        series.add(server.name, "longest gap / usual", longest / usual)
        series.add(server.name, "first token of the long prompt that joins, ms", first * 1e3)


def rate_together(server: Server, work: Work) -> float:
    """Tokens in a second of several streams, from when all have begun to when one ends."""
    streams = [Stream(server, work.story, work.count) for _ in range(STREAMS)]
    return together([stream.wait().times for stream in streams])


def together(times: Sequence[Sequence[float]]) -> float:
    """Events in a second of several series, while all of them run; 0 where they never do."""
    begin, end = max(series[0] for series in times), min(series[-1] for series in times)
    return sum(begin < at <= end for series in times for at in series) / (end - begin) if begin < end else 0.0


def gaps(server: Server, work: Work) -> tuple[float, float, float]:
    """Seconds: the usual gap of three streams, their longest while a long prompt joins, and its first token's time."""
    streams = [Stream(server, work.story, 100_000) for _ in range(3)]
    for stream in streams:
        stream.reach(20)
    streams[0].reach(40)
    joins = Stream(server, work.long, 1)
    joins.wait()
    for stream in streams:
        stream.call.cancel()
        stream.wait()
    if not joins.times:
        raise SystemExit(f"{server.name}: {joins.error}")
    if any(stream.final for stream in streams):
        print(f"{server.name}: a stream ended before the long prompt's first token: its gaps are fewer", flush=True)
    latest = max(stream.times[0] for stream in streams)
    times = [[at for at in stream.times if at > latest] for stream in streams]
    before, during = gaps_around(times, joins.begin, joins.times[0])
    return statistics.median(before), max(during), joins.first


def gaps_around(times: Sequence[Sequence[float]], begin: float, end: float) -> tuple[list[float], list[float]]:
    """The gaps of several series that are over before a moment, and those that touch what follows until another."""
    before: list[float] = []
    during: list[float] = []
    for series in times:
        for last, now in itertools.pairwise(series):
            if now <= begin:
                before.append(now - last)
            elif last <= end:
                during.append(now - last)
    return before, during


def overhead(bare: Bare, servers: Sequence[Server], work: Work, series: Series) -> None:
    """CPU for a token beside the bare loop's, of texts one after the other with their prompts."""
    prompt = bare.prompt(work.story)
    count = len(servers[0].text(work.story, work.count).times)
    least = bare.cpu_us(prompt, count, work.texts)
    series.add("bare", "CPU of a token, us", least)
    for server in servers:
        before, tokens = cpu_seconds(server.pid), 0
        for _ in range(work.texts):
            tokens += len(server.text(work.story, work.count).times)
        used = (cpu_seconds(server.pid) - before) / tokens * 1e6
        series.add(server.name, "CPU of a token, us", used)
        series.add(server.name, "CPU of a token beside the bare loop, us", used - least)


def cancels(server: Server, work: Work, series: Series) -> None:
    """Gives up texts at random moments, some amid their prompts, and waits until the slot is free."""
    source = random.Random(7)  # noqa: S311 - moments
    whole = server.text(work.story, 12)
    step = statistics.median(b - a for a, b in itertools.pairwise(whole.times))
    server.text(work.long, 2)
    before, within = resident(server.pid), 0
    for i in range(work.cancels):
        # Half of them amid a long prompt.
        long = i % 2 == 0
        stream = Stream(server, work.long if long else work.story, 100_000)
        time.sleep(source.uniform(0, 3 * whole.first if long else whole.first + 10 * step))
        stream.call.cancel()
        begin = time.perf_counter()
        while server.running() and time.perf_counter() - begin < CALL_SECONDS:
            time.sleep(POLL_SECONDS)
        free = time.perf_counter() - begin
        series.add(server.name, "slot free after a cancel, ms", free * 1e3)
        within += free <= step + POLL_SECONDS
        stream.wait()
    series.add(server.name, "slots free within a step, %", 100 * within / work.cancels)
    series.add(server.name, "memory after the cancels, MiB more", (resident(server.pid) - before) / (1 << 20))


@contextlib.contextmanager
def started(commands: Sequence[str], models: Path, model: str, extra: Sequence[str]) -> Iterator[list[Server]]:
    """The servers, ready, each with nothing but the one model."""
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="concord-bench-") as folder, tempfile.TemporaryFile() as log:
        (Path(folder) / model).mkdir()
        for version in (models / model).iterdir():
            # Links are refused: the files get second names, but those that are read without a manifest.
            target = Path(folder) / model / version.name
            target.mkdir()
            for path in version.iterdir():
                _second_name(path, target / path.name)
        try:
            for command in commands:
                name, _, words = command.partition("=")
                servers.append(Server(name, words, Path(folder), model, extra, log))
            yield servers
        finally:
            for server in servers:
                server.stop()


def _second_name(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def report(series: Series, machine: dict[str, str], model: str, rounds: int) -> list[str]:
    """The figures as a table in Markdown."""
    lines = [f"## {model}", "", ", ".join(f"{key}: {value}" for key, value in machine.items()), ""]
    lines += [f"Medians of {rounds} rounds, with the least and the greatest; of cancels, of all of them.", ""]
    servers = [name for name in series.values if name != "bare"]
    lines += ["| | bare | " + " | ".join(servers) + " | goal |", "|---|---|" + "---|" * (len(servers) + 1)]
    figures = list(dict.fromkeys(figure for name in series.values for figure in series.values[name]))
    for figure in figures:
        cells = []
        for name in ("bare", *servers):
            values = series.values.get(name, {}).get(figure)
            cells.append(_cell(values) if values else "")
        lines.append(f"| {figure} | " + " | ".join([*cells, _goal(figure, series, servers)]) + " |")
    return lines


def _cell(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _goal(figure: str, series: Series, servers: Sequence[str]) -> str:
    if figure == "CPU of a token beside the bare loop, us":
        told = [f"{name} at most {OVERHEAD[name]:.0f}" for name in servers if name in OVERHEAD]
        missed = [name for name in servers if series.median(name, figure) > OVERHEAD.get(name, float("inf"))]
    elif figure in GOALS:
        goal = GOALS[figure]
        told = [f"at least {goal.least:g}" if goal.least else f"at most {goal.most:g}"]
        missed = [name for name in servers if not goal.met(series.median(name, figure))]
    else:
        return ""
    return ", ".join(told) + (f": missed by {', '.join(missed)}" if missed else ": met")


def main() -> int:
    """Measures, prints, and writes what was measured."""
    parser = argparse.ArgumentParser(description="Text generation of both servers beside the bare decode loop.")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", action="append", help="default: smollm2, and tiny-chat for the CPU of a token")
    parser.add_argument("--server", action="append", metavar="NAME=COMMAND", help=f"default: {' and '.join(SERVERS)}")
    parser.add_argument("--flag", action="append", default=[], help="one more argument of each server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    parser.add_argument("--long", type=int, default=1400, help="tokens of the long prompt")
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--texts", type=int, default=0, help="of which CPU is measured; default 40, of large models 1")
    parser.add_argument("--out", type=Path, default=Path("build/bench/generate.json"))
    parser.add_argument("--report", type=Path, help="a file for the tables, as Markdown")
    given = parser.parse_args()
    machine = describe()
    results: dict[str, Any] = {"machine": machine, "models": {}}
    pages: list[str] = []
    for model in given.model or ["smollm2", "tiny-chat"]:
        series = measure(model, given)
        results["models"][model] = series.values
        pages += [*report(series, machine, model, given.rounds), ""]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(pages))
    if given.report:
        given.report.write_text("\n".join(["# Text generation", "", *pages]))
    return 0


def measure(model: str, given: argparse.Namespace) -> Series:
    """One model on all servers."""
    folder = max((given.models / model).iterdir(), key=lambda path: int(path.name))
    large = sum(path.stat().st_size for path in folder.iterdir()) > 50 << 20
    bare = Bare(folder)
    context = json.loads((folder / GENAI_CONFIG).read_text())["model"]["context_length"]
    work = Work(
        story=STORY.get(model, LONG_STORY),
        count=given.tokens,
        long=long_prompt(bare, min(given.long, context * 3 // 4)),
        cancels=given.cancels,
        texts=given.texts or (1 if large else 40),
    )
    series = Series()
    with started(given.server or SERVERS, given.models, model, given.flag) as servers:
        for server in servers:
            print(f"{model}, {server.name}: {server.text(FRANCE, 32).text!r}", flush=True)
            server.text(work.story, 8)
        for i in range(given.rounds):
            if large:
                one_round(bare, servers, work, series)
            overhead(bare, servers, work, series)
            print(f"{model}: round {i + 1} of {given.rounds}", flush=True)
        for server in servers if large else ():
            cancels(server, work, series)
            print(f"{model}, {server.name}: {given.cancels} cancels", flush=True)
    return series


if __name__ == "__main__":
    raise SystemExit(main())
