# SPDX-License-Identifier: Apache-2.0
"""Trial loads in child processes, whatever becomes of them, and the verdicts that are kept."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from concord_server.admission import Admission, AdmissionError, Limits, Trials, Verdicts
from concord_server.admission.verdicts import key_of

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "conformance" / "admission"
VERDICTS = dict(line.split(": ", 1) for line in (FOLDER / "verdicts.txt").read_text().splitlines())
RUNTIME = "1.31.1"
LIMIT = 20.0
LIMITS = Limits(60, 16 << 30)


def admission(
    cache: pathlib.Path | None = None,
    child: str | None = None,
    limits: Limits = LIMITS,
    **more: Any,
) -> Admission:
    """Admission as the server has it; `child` is Python to run instead of the real child."""
    command = [sys.executable, "-c", child] if child is not None else None
    return Admission(Trials(limits, command), Verdicts(cache), runtime=RUNTIME, **more)


def verdict(judge: Admission, graph: bytes, **files: bytes) -> str:
    try:
        judge.admit(graph, files)
    except AdmissionError as error:
        return str(error)
    return "admitted"


def read(name: str) -> bytes:
    return (FOLDER / f"{name}.onnx").read_bytes()


# Every rule is held against `check` itself beside this file; here, that the child says what it says.
@pytest.mark.parametrize(
    "name",
    ["identity", "garbage", "functions-doubling-21", "block-size-huge", "divide-int32-by-input", "external-outside"],
)
def test_the_child_gives_the_verdict(name: str) -> None:
    assert verdict(admission(), read(name)) == VERDICTS[name]


def test_external_data_goes_along() -> None:
    graph = read("external-listed")
    judge = admission()
    judge.admit(graph, {"model.onnx.data": bytes(1 << 16)})
    assert verdict(judge, graph) == 'model.onnx: tensor "w" has its data in a file that is not part of the package'


def test_integer_division_can_be_admitted() -> None:
    assert verdict(admission(allow_integer_division=True), read("divide-int32-by-input")) == "admitted"


def test_what_onnx_runtime_refuses_is_refused_in_its_words(tmp_path: pathlib.Path) -> None:
    from onnx import TensorProto, helper

    made = helper.make_graph(
        [helper.make_node("NoSuch", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    said = verdict(admission(tmp_path), graph)
    assert "NoSuch" in said
    assert "/" not in said
    # Kept: the next asks no child.
    assert verdict(admission(tmp_path, "raise SystemExit(9)"), graph) == said


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGFPE.value})", "trial load: the process died (SIGFPE)"),
        (f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})", "trial load: the process died (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 42)", "trial load: the process died (signal 42)"),
        ("raise SystemExit(2)", "trial load: the process ended with exit code 2"),
        ("", "trial load: the process ended with exit code 0"),
        ("print('{')", "trial load: the process ended with exit code 0"),
        ('print(\'{"refused":""}\')', "trial load: the process ended with exit code 0"),
        ("print('[' * 100000)", "trial load: the process ended with exit code 0"),
        ("print('x' * (1 << 22))", "trial load: the process ended with exit code 0"),
        ("print('{\"memory\":true}')", "trial load: needs more than 17179869184 bytes of memory"),
    ],
)
def test_what_becomes_of_a_child_is_told_and_not_kept(tmp_path: pathlib.Path, child: str, reason: str) -> None:
    assert verdict(admission(tmp_path, child), b"graph") == reason
    assert list(tmp_path.iterdir()) == []


def test_time_runs_out() -> None:
    endless = "import threading; threading.Event().wait()"
    begin = time.monotonic()
    assert verdict(admission(child=endless, limits=Limits(0.25, 1)), b"g") == "trial load: did not finish in 0.25 s"
    assert time.monotonic() - begin < LIMIT
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # reaped


def test_memory_runs_out(tmp_path: pathlib.Path) -> None:
    limits = Limits(60, 64 << 20)
    said = verdict(admission(tmp_path, limits=limits), read("identity"), data=bytes(65 << 20))
    assert said == "trial load: needs more than 67108864 bytes of memory"
    assert list(tmp_path.iterdir()) == []


def test_memory_of_constants_computed_ahead() -> None:
    """140 bytes that ask for 1 GiB while they load: a limit that only made allocations fail would pass them."""
    folded = FOLDER.parents[1] / "go" / "internal" / "modeltest" / "testdata" / "folded.onnx"
    judge = admission(limits=Limits(60, 256 << 20))
    assert verdict(judge, folded.read_bytes()) == "trial load: needs more than 268435456 bytes of memory"
    assert verdict(admission(), folded.read_bytes()) == "admitted"


def test_a_child_that_cannot_be_started() -> None:
    judge = Admission(Trials(Limits(1, 1), ["/no/such/program"]), Verdicts(None), runtime=RUNTIME)
    assert verdict(judge, b"g") == "trial load: the process could not be started"


def test_close_ends_the_trials_under_way() -> None:
    judge = admission(child="import sys, threading; sys.stderr.write('x'); threading.Event().wait()")
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(verdict(judge, b"g")))
    thread.start()
    trials = judge._trials
    end = time.monotonic() + LIMIT
    while not trials._running:
        assert time.monotonic() < end
    judge.close()
    thread.join(LIMIT)
    assert said == ["the server is shutting down"]
    assert verdict(judge, b"g") == "the server is shutting down"


def test_the_child_gets_no_core_dump_and_its_own_group_and_dies_with_its_parent() -> None:
    # A process that starts a trial whose child tells its pid and waits; then the process is killed.
    parent = (
        "import sys\n"
        "from concord_server.admission import Limits, Trials\n"
        "child = 'import os, resource, sys, threading; from concord_server.admission import __main__ as child;"
        "child._die_with(os.getppid()); sys.stderr.flush();'\n"
        'child += \'open(sys.argv[1], "w").write(str(os.getpid()) + " " + str(os.getpgid(0)));\'\n'
        "child += 'threading.Event().wait()'\n"
        "Trials(Limits(60, 1), [sys.executable, '-c', child, sys.argv[1]]).run(b'', {}, "
        "intra_op_threads=1, integer_division=False)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        told = pathlib.Path(folder) / "told"
        process = subprocess.Popen([sys.executable, "-c", parent, os.fspath(told)])
        try:
            wait_until(lambda: told.exists() and " " in told.read_text())
            pid, group = map(int, told.read_text().split())
            assert pid == group
        finally:
            process.kill()
            process.wait(LIMIT)
        wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)


def test_the_key_is_of_the_documented_lines() -> None:
    lines = [
        "concord-admission 2",
        "onnxruntime 1.31.1",
        f"machine {os.uname().machine}",
        "intra_op_threads 2",
        "allow_integer_division true",
        f"model.onnx {hashlib.sha256(b'graph').hexdigest()}",
        f"a {hashlib.sha256(b'1').hexdigest()}",
        f"b c {hashlib.sha256(b'2').hexdigest()}",
        f"é {hashlib.sha256(b'3').hexdigest()}",
    ]
    key = key_of(
        b"graph",
        {"é": b"3", "b c": b"2", "a": b"1"},
        runtime="1.31.1",
        intra_op_threads=2,
        allow_integer_division=True,
    )
    assert key == hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


ADMITTED = "print('{\"admitted\":true}')"
NEVER = "raise SystemExit(9)"


def only(folder: pathlib.Path) -> pathlib.Path:
    (path,) = folder.iterdir()
    return path


def test_verdicts_are_kept_for_the_next_start(tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "made/cache"
    assert verdict(admission(cache, ADMITTED), b"g") == "admitted"
    assert cache.stat().st_mode & 0o777 == 0o700
    path = only(cache)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == f'{{"key":"{path.name}","admitted":true}}\n'
    assert verdict(admission(cache, NEVER), b"g") == "admitted"
    refused = 'print(\'{"refused":"model.onnx: no"}\')'
    assert verdict(admission(cache, refused), b"other") == "model.onnx: no"
    assert verdict(admission(cache, NEVER), b"other") == "model.onnx: no"
    # Another setting is another verdict.
    assert verdict(admission(cache, NEVER, allow_integer_division=True), b"g") != "admitted"
    assert verdict(admission(cache, NEVER, intra_op_threads=2), b"g") != "admitted"


def in_place_of(text: str) -> Callable[[pathlib.Path], object]:
    return lambda path: path.write_text(text.replace("KEY", path.name))


def link(path: pathlib.Path) -> None:
    other = path.parent.parent / "other"
    path.rename(other)
    path.symlink_to(other)


def pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        in_place_of(""),
        in_place_of("{"),
        in_place_of("[" * 4000),
        in_place_of('{"key":"KEY"}'),
        in_place_of('{"key":"other","admitted":true}'),
        in_place_of('{"key":"KEY","admitted":1}'),
        in_place_of('{"key":"KEY","admitted":false}'),
        in_place_of('{"key":"KEY","refused":""}'),
        in_place_of('{"key":"KEY","refused":1}'),
        in_place_of('{"key":"KEY","admitted":true,"more":1}'),
        in_place_of('{"key":"KEY","admitted":true}' + " " * 4096),
        in_place_of('["KEY"]'),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.chmod(0o622),
        link,
        pipe,
    ],
)
def test_a_verdict_that_is_damaged_is_made_anew(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], object]
) -> None:
    cache = tmp_path / "cache"
    verdict(admission(cache, ADMITTED), b"g")
    damage(only(cache))
    refused = 'print(\'{"refused":"asked anew"}\')'
    assert verdict(admission(cache, refused), b"g") == "asked anew"
    assert json.loads(only(cache).read_text())["refused"] == "asked anew"


def test_a_foreign_verdict_is_ignored(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    judge = admission(cache, 'print(\'{"refused":"asked anew"}\')')
    verdict(admission(cache, ADMITTED), b"g")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert verdict(judge, b"g") == "asked anew"


def warned(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_directory_of_somebody_else_keeps_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    judge = admission(tmp_path, ADMITTED)
    assert [verdict(judge, b"g") for _ in range(2)] == ["admitted"] * 2
    assert list(tmp_path.iterdir()) == []
    assert warned(caplog) == ["verdicts of admission are not kept"]


def test_a_directory_that_others_write_keeps_none(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o777)
    assert verdict(admission(tmp_path, ADMITTED), b"g") == "admitted"
    assert list(tmp_path.iterdir()) == []
    assert warned(caplog) == ["verdicts of admission are not kept"]


def test_a_directory_that_cannot_be_made_keeps_none(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert verdict(admission(tmp_path / "file/cache", ADMITTED), b"g") == "admitted"
    assert warned(caplog) == ["verdicts of admission are not kept"]


def test_a_long_refusal_is_not_kept(tmp_path: pathlib.Path) -> None:
    child = "import json; print(json.dumps({'refused': 'x' * 5000}))"
    assert verdict(admission(tmp_path, child), b"g") == "x" * 5000
    assert list(tmp_path.iterdir()) == []


def test_the_parent_never_imports_onnx() -> None:
    code = (
        "import sys\n"
        "import concord_server.__main__, concord_server.admission, concord_server.repository, concord_server.server\n"
        "from concord_server.admission import Admission, Limits, Trials, Verdicts\n"
        f"graph = open({os.fspath(FOLDER / 'identity.onnx')!r}, 'rb').read()\n"
        "Admission(Trials(Limits(60, 1 << 34)), Verdicts(None), runtime='1').admit(graph, {})\n"
        "print('onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.strip() == "False"
