# SPDX-License-Identifier: Apache-2.0
"""The decoder: the same tokens alone and together, in one piece and in several; and what must not be."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_server.fault import Fault, Reason
from concord_server.generate import Package, Row, Sizes
from concord_server.generate.settings import parse_settings
from concord_server.model import Call, SessionError
from concord_server.ort import Generators, OrtDecoder, Runtime

FIXTURES = Path(__file__).resolve().parents[3] / "conformance" / "fixtures"
LIMIT = 20.0  # seconds that a test waits for what should happen at once
SIZE, VOCABULARY, CONTEXT = 16, 61, 96  # of the kit's network

COUNT = 30


def rss() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def alone(kit: SimpleNamespace, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """What the network says to each prompt."""
    made = [kit.generate(kit.decoder(), prompt, COUNT) for prompt in prompts]
    assert len({tuple(tokens) for tokens in made}) == len(prompts)  # else they would prove little
    return made


@pytest.mark.parametrize("piece", [1, 7, 32])
def test_a_prompt_in_pieces_is_the_prompt(kit: SimpleNamespace, prompts: Any, alone: Any, piece: int) -> None:
    one = kit.decoder()
    assert [kit.generate(one, prompt, COUNT, slot=2, piece=piece) for prompt in prompts] == alone


@pytest.mark.parametrize("every", [1, 2, 9])
@pytest.mark.parametrize("lowest", [True, False])
def test_together_as_alone(kit: SimpleNamespace, prompts: Any, alone: Any, every: int, lowest: bool) -> None:
    """Streams join every few steps, into the lowest free slot or the highest, which leaves others idle between."""
    one = kit.decoder()
    waiting = list(range(len(prompts)))
    running: dict[int, int] = {}  # by slot
    made: list[list[int]] = [[] for _ in prompts]
    step = 0
    while waiting or running:
        free = sorted(set(range(one.slots)) - set(running), reverse=not lowest)
        if waiting and free and step % every == 0:
            at = waiting.pop(0)
            running[free[0]] = at
            made[at].append(kit.prefill(one, free[0], prompts[at], 16))
        rows = [Row(s, len(prompts[at]) + len(made[at]) - 1, made[at][-1:]) for s, at in sorted(running.items())]
        if rows:
            for row, logits in zip(rows, one.run(rows, Call()), strict=True):
                at = running[row.slot]
                made[at].append(int(logits.argmax()))
                if len(made[at]) == COUNT:
                    del running[row.slot]
        step += 1
    assert made == alone


def test_a_slot_that_takes_no_part_stays_as_it_is(kit: SimpleNamespace, prompts: Any) -> None:
    one = kit.decoder()
    for slot in range(4):
        kit.prefill(one, slot, prompts[2])
    before = one._memory.cache.copy()
    one.run([Row(1, 23, [5]), Row(3, 23, [6])], Call())
    after = one._memory.cache
    assert np.array_equal(before[:, [0, 2]], after[:, [0, 2]])
    assert np.array_equal(before[:, :, :, :23], after[:, :, :, :23])
    assert not np.array_equal(before[:, [1, 3], :, 23], after[:, [1, 3], :, 23])


def test_move(kit: SimpleNamespace, prompts: Any, alone: Any) -> None:
    one = kit.decoder()
    made = kit.generate(one, prompts[3], 10, slot=3)
    kit.generate(one, prompts[0], 5, slot=1)
    one.move(3, 1, len(prompts[3]) + 9)
    while len(made) < COUNT:
        (logits,) = one.run([Row(1, len(prompts[3]) + len(made) - 1, made[-1:])], Call())
        made.append(int(logits.argmax()))
    assert made == alone[3]
    one.move(1, 1, CONTEXT)
    for bad in ((4, 0, 1), (0, 4, 1), (-1, 0, 1), (0, 1, CONTEXT + 1), (0, 1, -1)):
        with pytest.raises(SessionError, match="out of range"):
            one.move(*bad)


def test_logits_of_the_last_token_alone_give_the_same(kit: SimpleNamespace, prompts: Any, alone: Any) -> None:
    for says_so in (False, True):
        one = kit.decoder(kit.network(last_only=True, says_so=says_so))
        assert [kit.generate(one, prompt, COUNT, piece=9) for prompt in prompts] == alone


def test_logits_of_every_token_take_several_runs(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, prompts: Any, alone: Any
) -> None:
    monkeypatch.setattr("concord_server.ort.decoder._MAX_LOGITS_BYTES", 7 * VOCABULARY * 4)
    one = kit.decoder()
    assert one._most == 7
    assert [kit.generate(one, prompt, COUNT) for prompt in prompts] == alone


def test_positions_given_or_counted(kit: SimpleNamespace, prompts: Any, alone: Any) -> None:
    one = kit.decoder(kit.network(positions=True))
    assert [kit.generate(one, prompt, COUNT, slot=1, piece=9) for prompt in prompts] == alone
    # Together as well.
    rows = []
    for slot in (0, 1):
        made = kit.generate(one, prompts[slot + 1], 3, slot=slot)
        rows.append(Row(slot, len(prompts[slot + 1]) + 2, made[-1:]))
    assert [int(logits.argmax()) for logits in one.run(rows, Call())] == [alone[1][3], alone[2][3]]


def test_half_precision(kit: SimpleNamespace, prompts: Any) -> None:
    one, other = kit.decoder(kit.network(half=True)), kit.decoder()
    assert one.cache_bytes * 2 == other.cache_bytes == 2 * 2 * 2 * SIZE * CONTEXT * 4 * 4
    for slot, prompt in enumerate(prompts[:4]):
        (half,) = one.run([Row(slot, 0, prompt)], Call())
        (whole,) = other.run([Row(slot, 0, prompt)], Call())
        assert half.dtype == np.float32
        assert np.allclose(half, whole, atol=0.05)
    rows = [Row(slot, len(prompt), [7]) for slot, prompt in enumerate(prompts[:4])]
    for half, whole in zip(one.run(rows, Call()), other.run(rows, Call()), strict=True):
        assert np.allclose(half, whole, atol=0.05)


def test_the_logits_are_read_where_they_are(kit: SimpleNamespace, prompts: Any) -> None:
    one = kit.decoder()
    first = one.run([Row(0, 0, [3]), Row(1, 0, [4])], Call())
    assert all(np.shares_memory(logits, one._memory.logits) for logits in first)
    assert [logits.shape for logits in first] == [(VOCABULARY,)] * 2


def test_to_the_last_token_of_the_context(kit: SimpleNamespace) -> None:
    one = kit.decoder(slots=2)
    kit.prefill(one, 1, [1] * (CONTEXT - 1))
    assert len(one.run([Row(0, CONTEXT - 1, [3]), Row(1, CONTEXT - 1, [2])], Call())) == 2
    kit.prefill(one, 1, [1] * CONTEXT)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "expected a row, got none"),
        ([Row(0, 0, [])], "slot 0: expected one token, got 0"),
        ([Row(4, 0, [1])], "expected a slot from 0 to 3, got 4"),
        ([Row(-1, 0, [1])], "expected a slot from 0 to 3, got -1"),
        ([Row(1, 0, [1]), Row(0, 0, [1])], "expected a slot from 2 to 3, got 0"),
        ([Row(1, 0, [1]), Row(1, 0, [1])], "expected a slot from 2 to 3, got 1"),
        ([Row(0, 0, [1]), Row(1, 0, [1, 2])], "slot 1: expected one token, got 2"),
        ([Row(0, CONTEXT, [1])], f"slot 0: expected at most {CONTEXT} tokens, got {CONTEXT + 1}"),
        ([Row(0, -1, [1])], "slot 0: expected a position from 0, got -1"),
        ([Row(0, 0, [1] * (CONTEXT + 1))], f"slot 0: expected at most {CONTEXT} tokens, got {CONTEXT + 1}"),
        ([Row(0, 90, [1] * 7)], f"slot 0: expected at most {CONTEXT} tokens, got 97"),
        ([Row(0, 0, [VOCABULARY])], f"slot 0: expected tokens from 0 to {VOCABULARY - 1}, got {VOCABULARY}"),
        ([Row(0, 0, [-1])], f"slot 0: expected tokens from 0 to {VOCABULARY - 1}, got -1"),
        ([Row(2, 0, [1, -2, 99])], f"slot 2: expected tokens from 0 to {VOCABULARY - 1}, got -2"),
        ([Row(0, 0, [1]), Row(1, 0, [61])], f"slot 1: expected tokens from 0 to {VOCABULARY - 1}, got 61"),
    ],
)
def test_what_is_out_of_bounds_never_reaches_onnx_runtime(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rows: Sequence[Row], text: str
) -> None:
    one = kit.decoder()
    monkeypatch.setattr(one, "_execute", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SessionError, match=re.escape(text)):
        one.run(rows, Call())


@pytest.fixture
def slow() -> OrtDecoder:
    """A network that takes a day for a `Y`, and does nothing with what it is given to keep."""
    folder = FIXTURES / "token-lm" / "1"
    session = Runtime(1).load((folder / "model.onnx").read_bytes(), {})
    return OrtDecoder(session, parse_settings((folder / "genai_config.json").read_bytes()), Sizes(4, 1 << 24))


def token(letter: str) -> int:
    return 3 + ord(letter)


@pytest.mark.parametrize("tokens", [[token("Y")], [token("a"), token("Y")]])
def test_a_run_is_ended_and_the_next_is_not(slow: OrtDecoder, tokens: list[int]) -> None:
    for _ in range(3):
        call = Call()
        timer = threading.Timer(0.05, call.cancel)
        timer.start()
        begin = time.monotonic()
        with pytest.raises(Fault) as raised:
            slow.run([Row(0, 0, tokens)], call)
        timer.join()
        assert raised.value.reason is Reason.CANCELLED
        assert time.monotonic() - begin < LIMIT
        (logits,) = slow.run([Row(0, 0, [token("a")])], Call())
        assert int(logits.argmax()) == token("b")


def test_a_joint_run_is_ended(slow: OrtDecoder) -> None:
    call = Call()
    threading.Timer(0.05, call.cancel).start()
    with pytest.raises(Fault):
        slow.run([Row(0, 0, [token("a")]), Row(2, 0, [token("Y")])], call)
    rows = [Row(0, 0, [token("a")]), Row(2, 0, [token("c")])]
    assert [int(logits.argmax()) for logits in slow.run(rows, Call())] == [token("b"), token("d")]


def test_a_call_that_has_ended_does_not_run(slow: OrtDecoder) -> None:
    call = Call()
    call.cancel()
    with pytest.raises(Fault):
        slow.run([Row(0, 0, [token("Y")])], call)
    with pytest.raises(Fault) as raised:
        slow.run([Row(0, 0, [token("Y")])], Call(deadline=time.monotonic() - 1))
    assert raised.value.reason is Reason.DEADLINE_EXCEEDED


def test_cancelled_at_any_moment(slow: OrtDecoder) -> None:
    """Whoever cancels when the run is over, or not yet begun, ends nobody else's."""
    random = np.random.default_rng(3)
    for _ in range(200):
        call = Call()
        timer = threading.Timer(float(random.uniform(0, 0.002)), call.cancel)
        timer.start()
        with contextlib.suppress(Fault):
            slow.run([Row(0, 0, [token("Z")])], call)
        (logits,) = slow.run([Row(1, 0, [token("a")])], Call())
        assert int(logits.argmax()) == token("b")
        timer.join()


def test_onnx_runtimes_own_failure_is_told(slow: OrtDecoder) -> None:
    with pytest.raises(SessionError):
        slow.run([Row(0, 0, [token("~")])], Call())
    (logits,) = slow.run([Row(0, 0, [token("a")])], Call())
    assert int(logits.argmax()) == token("b")


def test_memory_is_taken_when_it_is_used_and_runs_leave_none(kit: SimpleNamespace) -> None:
    before = rss()
    one = kit.decoder(slots=64, most=1 << 33, context_length=1 << 16)
    assert one.cache_bytes == 1 << 31

    def runs(times: int) -> int:
        for _ in range(times):
            one.run([Row(0, 5, [1])], Call())
            one.run([Row(0, 0, [1] * 20)], Call())
            one.run([Row(slot, 5, [1]) for slot in (0, 2, 5)], Call())
        return rss()

    used = [runs(50)]
    assert used[0] - before < 256 << 20  # of 2 GiB; the system may give 2 MiB at a time
    used += [runs(1000) for _ in range(4)]
    # What runs leave, each thousand leaves; the system may make huge pages of the caches' at any time.
    assert min(later - earlier for earlier, later in itertools.pairwise(used)) < 1 << 18, used


def test_a_decoder_leaves_nothing(kit: SimpleNamespace) -> None:
    graph = kit.network()
    after = []
    for i in range(60):
        one = kit.decoder(graph)
        kit.generate(one, [1, 2, 3], 3)
        one.run([Row(0, 5, [1]), Row(1, 5, [1])], Call())
        if i % 2:
            one.close()
        del one
        after.append(rss())
    assert after[-1] - after[20] < 2 << 20


def test_a_closed_decoder(kit: SimpleNamespace) -> None:
    one = kit.decoder()
    one.run([Row(0, 0, [1])], Call())
    one.close()
    one.close()
    with pytest.raises(SessionError, match="closed"):
        one.run([Row(0, 0, [1])], Call())


def test_sizes(kit: SimpleNamespace) -> None:
    one = kit.decoder(slots=3, most=8 * 16 * 3 * 10 * 4)
    assert (one.slots, one.context, one.vocabulary, one.end_tokens) == (3, 10, VOCABULARY, (0,))
    assert one.cache_bytes == 10 * 3 * 8 * SIZE * 4
    with pytest.raises(SessionError, match=r"one token in each of 3 slots, 1536 bytes, got less"):
        kit.decoder(slots=3, most=1535)
    assert kit.decoder(slots=1, most=512).context == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocab_size": 60}, 'output "logits": expected float or float16 [-1, -1, 60], got float [-1, -1, 61]'),
        ({"decoder__head_size": 8}, 'input "past_key_values.0.key": expected float or float16 [-1, 2, -1, 8], got'),
        ({"decoder__num_key_value_heads": 4}, 'input "past_key_values.0.key": expected float or float16 [-1, 4, -1,'),
        ({"decoder__num_hidden_layers": 3}, 'input "past_key_values.2.key": expected float [-1, 2, -1, 16], got noth'),
        ({"decoder__num_hidden_layers": 1}, 'input "past_key_values.1.key": expected none of this name'),
        ({"decoder__inputs": {"input_ids": "x"}}, 'input "x": expected int64 [-1, -1], got nothing'),
        ({"decoder__inputs": {"position_ids": "input_ids"}}, "got names that are equal"),
        ({"decoder__inputs": {"past_value_names": "past_key_values.%d.key"}}, '.value": expected none of this name'),
        ({"decoder__outputs": {"logits": "y"}}, 'output "y": expected float or float16 [-1, -1, 61], got nothing'),
        ({"decoder__outputs": {"present_key_names": "p.%d"}}, 'output "p.0": expected float [-1, 2, -1, 16], got noth'),
        ({"decoder__outputs": {"present_key_names": "present.%d.value"}}, "got names that are equal"),
    ],
)
def test_settings_that_are_not_the_graphs(kit: SimpleNamespace, changes: dict[str, object], text: str) -> None:
    with pytest.raises(SessionError, match=re.escape(text)):
        kit.decoder(**changes)


def test_a_graph_whose_logits_are_of_another_length(kit: SimpleNamespace) -> None:
    with pytest.raises(SessionError):
        kit.decoder(kit.network(says_so=True)).run([Row(0, 0, [1, 2])], Call())


def test_settings_are_those_of_the_network(kit: SimpleNamespace) -> None:
    assert parse_settings(kit.settings()).context == CONTEXT


def test_a_package_on_a_gpu_is_refused() -> None:
    folder = FIXTURES / "token-lm" / "1"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    package = Package(files["model.onnx"], {}, files)
    with pytest.raises(SessionError, match="text generation runs on the CPU, not on cuda:0"):
        Generators(device="cuda:0")(package, Sizes(2))
    tokenizer, made = Generators()(package, Sizes(2))
    assert tokenizer.encode("a") == [token("a")]
    assert made.slots == 2
    with pytest.raises(SessionError, match=r"genai_config.json: expected JSON"):
        Generators()(Package(package.graph, {}, {}), Sizes(2))


def test_tiny_chat_says_the_same_alone_and_together() -> None:
    folder = FIXTURES / "tiny-chat" / "1"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokenizer, one = Generators()(Package(files["model.onnx"], {}, files), Sizes(4))
    said = {
        "What is the capital of France?": "The capital of France is Paris.",
        "Speak Japanese.": "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \U0001f412",
        "What is 2+2?": "2+2 is 4.",
    }
    prompts = [
        tokenizer.encode(tokenizer.template(json.dumps([{"role": "user", "content": question}]))) for question in said
    ]
    for piece in (1, 10, 512):
        streams = [tokenizer.stream() for _ in said]
        texts = ["" for _ in said]
        tokens = []
        for slot, prompt in enumerate(prompts):
            for at in range(0, len(prompt), piece):
                (logits,) = one.run([Row(slot, at, prompt[at : at + piece])], Call())
            tokens.append(int(logits.argmax()))
        running = dict(enumerate(len(prompt) for prompt in prompts))
        while running:
            for slot in list(running):
                if tokens[slot] in one.end_tokens:
                    del running[slot]
                else:
                    texts[slot] += streams[slot].add(tokens[slot])
            rows = [Row(slot, position, [tokens[slot]]) for slot, position in running.items()]
            for row, logits in zip(rows, one.run(rows, Call()) if rows else (), strict=True):
                tokens[row.slot] = int(logits.argmax())
                running[row.slot] += 1
        assert texts == list(said.values())
