# SPDX-License-Identifier: Apache-2.0
"""The cases of cases/stream_tiny_chat.yaml: what a language model says, as ONNX Runtime in this process and
generator_reference.py say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator_reference import Generated, Reference, Settings, seed_of

MODEL = "tiny-chat"
CAPITAL = "What is the capital of France?"
STORY = "Tell me a story."
JAPANESE = "Speak Japanese."
QUESTIONS = {
    "capital_of_france": CAPITAL,
    "capital_of_japan": "What is the capital of Japan?",
    "hello": "Say hello.",
    "count": "Count to ten.",
    "colors": "Name three colors.",
    "sum": "What is 2+2?",
    "who": "Who are you?",
    "story": STORY,
    "japanese": JAPANESE,
}
# Of these every message is written out; of longer ones the text and the ids.
_MOST_MESSAGES = 32


def flow(value: object) -> str:
    """A value as YAML in one line: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def one_case(case_id: str, description: str, *steps: str, level: str = "") -> str:
    """One case."""
    given = f"    level: {level}\n" if level else ""
    return f"  - id: {case_id}\n    description: {flow(description)}\n{given}    steps:\n" + "\n".join(steps) + "\n"


def step(call: dict[str, Any], expect: dict[str, Any], **more: Any) -> str:
    """One step, a line each for the call and what must come."""
    lines = [f"      - call: {flow(call)}", f"        expect: {flow(expect)}"]
    return "\n".join([*lines, *(f"        {name}: {flow(value)}" for name, value in more.items())])


def features(**given: str | bool) -> dict[str, Any]:
    """Features of a request."""
    return {
        name: {"bool_value": value} if isinstance(value, bool) else {"string_value": value}
        for name, value in given.items()
    }


def config(settings: Settings, *, seeded: bool = True) -> dict[str, Any]:
    """The InferenceConfig of some settings."""
    made: dict[str, Any] = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) != field.default and field.name != "seed"
    }
    return {**made, "seed": str(settings.seed)} if seeded and settings.temperature else made


def request(
    given: dict[str, Any], settings: Settings | None = None, *, seeded: bool = True, **more: Any
) -> dict[str, Any]:
    """A request to tiny-chat."""
    made = {"model_id": MODEL, **more, "features": given}
    if settings is not None and (wanted := config(settings, seeded=seeded)):
        made["config"] = wanted
    return made


def usage(answer: Generated) -> dict[str, int]:
    """Both counts."""
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": len(answer.token_ids)}


def stream_of(answer: Generated, *, messages: bool = False) -> dict[str, Any]:
    """What StreamPredict must give."""
    finish = f"FINISH_REASON_{answer.finish}"
    if messages and len(answer.token_ids) <= _MOST_MESSAGES:
        made: list[dict[str, Any]] = [
            {"token": piece, "token_id": token, "token_index": index}
            for index, (piece, token) in enumerate(zip(answer.pieces, answer.token_ids, strict=True))
        ]
        final: dict[str, Any] = {"is_final": True, "token_index": len(made), "finish_reason": finish}
        final["usage"] = usage(answer)
        if answer.seed:
            final["seed"] = str(answer.seed)
        return {"messages": [*made, final], "equals_predict": True}
    return {
        "text": answer.text,
        "token_count": len(answer.token_ids),
        "token_ids": list(answer.token_ids),
        "finish_reason": finish,
        "usage": usage(answer),
        "seed": str(answer.seed),
        "equals_predict": True,
    }


def predict_of(answer: Generated) -> dict[str, Any]:
    """What Predict must give."""
    made: dict[str, Any] = {
        "outputs": {
            "text": {"string_value": answer.text},
            "token_ids": {"int64_array": {"values": list(answer.token_ids)}},
        },
        "finish_reason": f"FINISH_REASON_{answer.finish}",
        "usage": usage(answer),
    }
    return {**made, "seed": str(answer.seed)} if answer.seed else made


class Cases:
    """The cases, in groups."""

    def __init__(self, package: Path, table: Path) -> None:
        self._reference = Reference(package)
        self._table = Reference(table)

    def _ask(self, prompt: str, settings: Settings | None = None) -> Generated:
        return self._reference.generate(self._reference.chat(("user", prompt)), settings or Settings())

    def all(self) -> Iterator[str]:
        """Every case."""
        yield from self._questions()
        yield from self._prompts()
        yield from self._lengths()
        yield from self._stops()
        yield from self._sampling()
        yield from self._together()

    def _questions(self) -> Iterator[str]:
        for name, question in QUESTIONS.items():
            answer = self._ask(question)
            yield one_case(
                f"stream.chat.{name}",
                f"{question!r} is answered {answer.text!r}, greedily: its tokens in order, one final message, and the "
                "same by Predict.",
                step(
                    {"stream_predict": request(features(prompt=question), request_id=f"chat {name}")},
                    {"stream": stream_of(answer, messages=True)},
                ),
                step({"predict": request(features(prompt=question))}, {"predict": predict_of(answer)}),
            )
        cut = self._ask(JAPANESE, Settings(max_tokens=4))
        yield one_case(
            "stream.chat.cut_character",
            "A text that ends in the middle of a character ends before that character; its tokens are there.",
            step(
                {"stream_predict": request(features(prompt=JAPANESE), Settings(max_tokens=4))},
                {"stream": stream_of(cut, messages=True)},
            ),
        )

    def _prompts(self) -> Iterator[str]:
        reference = self._reference
        system, question = "Be short.", "Say hello."
        answer = reference.generate(reference.chat(("system", system), ("user", question)), Settings(max_tokens=24))
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        short = Settings(max_tokens=24)
        yield one_case(
            "stream.prompt.system",
            "A system message goes before the prompt, and before messages; it is as if it were their first.",
            *(
                step({"stream_predict": request(given, short)}, {"stream": stream_of(answer)})
                for given in (
                    features(prompt=question, system=system),
                    features(messages=flow(messages)),
                    features(messages=flow(messages[1:]), system=system),
                )
            ),
        )
        turns = (("user", "Say hello."), ("assistant", "Hello! How can I help you today?"), ("user", "What is 2+2?"))
        answer = reference.generate(reference.chat(*turns), short)
        yield one_case(
            "stream.prompt.messages",
            "Messages are a conversation: all of it goes through the chat template, and the assistant's turn is next.",
            step(
                {
                    "stream_predict": request(
                        features(messages=flow([{"role": role, "content": content} for role, content in turns])), short
                    )
                },
                {"stream": stream_of(answer)},
            ),
        )
        plain = self._ask(CAPITAL)
        yield one_case(
            "stream.prompt.raw",
            "A raw prompt goes to the tokenizer as it is: with the chat template's own words in it, special tokens "
            "too, it is what the template would have made.",
            step(
                {"stream_predict": request(features(prompt=reference.chat(("user", CAPITAL)), raw=True))},
                {"stream": stream_of(plain)},
            ),
        )
        bare = reference.generate(CAPITAL, short)
        yield one_case(
            "stream.prompt.raw_without_template",
            "Without the template's words a raw prompt is another one; raw false is as good as no raw.",
            step({"stream_predict": request(features(prompt=CAPITAL, raw=True), short)}, {"stream": stream_of(bare)}),
            step({"stream_predict": request(features(prompt=CAPITAL, raw=False))}, {"stream": stream_of(plain)}),
            step(
                {"stream_predict": request(features(prompt=CAPITAL, messages="", system=""))},
                {"stream": stream_of(plain)},
            ),
        )
        odd = 'é😀 "quoted" \\ back\tslash'
        answer = self._ask(odd, short)
        yield one_case(
            "stream.prompt.unicode",
            "Characters of several bytes, quotes, a backslash and a tab reach the tokenizer as they are, in a prompt "
            "and in messages.",
            step({"stream_predict": request(features(prompt=odd), short)}, {"stream": stream_of(answer)}),
            step(
                {"stream_predict": request(features(messages=json.dumps([{"role": "user", "content": odd}])), short)},
                {"stream": stream_of(answer)},
            ),
        )

    def _lengths(self) -> Iterator[str]:
        whole = self._ask(CAPITAL)
        count = len(whole.token_ids)
        for name, most, description in (
            ("one", 1, "One token and no more."),
            ("exact", count, "As many tokens as the answer has: the model's end is not asked for, so LENGTH."),
            ("one_more", count + 1, "One token more than the answer has: the model's end comes first, so STOP."),
        ):
            yield one_case(
                f"stream.length.{name}",
                description,
                step(
                    {"stream_predict": request(features(prompt=CAPITAL), Settings(max_tokens=most))},
                    {"stream": stream_of(self._ask(CAPITAL, Settings(max_tokens=most)), messages=True)},
                ),
            )
        endless = "What is the capital of Spain?"
        yield one_case(
            "stream.length.default",
            "max_tokens 0 is the default, 256 tokens: the model was never told this answer's end.",
            step({"stream_predict": request(features(prompt=endless))}, {"stream": stream_of(self._ask(endless))}),
            step(
                {"stream_predict": request(features(prompt=endless), Settings(max_tokens=256))},
                {"stream": stream_of(self._ask(endless))},
            ),
        )
        context = self._reference.context
        for name, length, most in (("context", context - 12, 100), ("context_last", context - 1, 0)):
            prompt = "x" * length
            answer = self._reference.generate(prompt, Settings(max_tokens=most))
            if answer.finish != "LENGTH":
                raise ValueError(f"{name}: expected to come to the context's end")
            yield one_case(
                f"stream.length.{name}",
                f"A prompt of {length} tokens leaves room for {context - length} of {context}: then LENGTH.",
                step(
                    {
                        "stream_predict": request(features(raw=True), Settings(max_tokens=most)),
                        "fills": [{"path": 'features["prompt"].string_value', "text": {"text": "x", "count": length}}],
                    },
                    {"stream": stream_of(answer)},
                ),
            )

    def _stops(self) -> Iterator[str]:
        for name, prompt, stops, description in (
            ("middle", CAPITAL, ("is P",), "The text ends before the stop text, the tokens with its last one."),
            ("first", CAPITAL, ("T",), "A stop text at the very beginning leaves no text."),
            ("several", CAPITAL, ("Paris", "capital", "is"), "The stop text that is complete first ends the text."),
            ("longest", CAPITAL, ("tal", "capital", "al"), "Of those complete at one character the longest counts."),
            ("held", CAPITAL, ("France is Rome", "Paris!"), "What looked like a stop text and was none is delivered."),
            ("held_to_the_end", CAPITAL, ("Paris. And",), "What may begin a stop text is delivered at the end."),
            ("prompt", CAPITAL, ("capital of France?", "assistant"), "The prompt is no part of the text."),
            ("unicode", JAPANESE, ("世界",), "A stop text of several bytes a character."),
            ("across", STORY, ("in order. The",), "A stop text over several words."),
        ):  # fmt: skip
            settings = Settings(stop=stops)
            answer = self._ask(prompt, settings)
            yield one_case(
                f"stream.stop.{name}",
                f"{description} Stop texts {flow(list(stops))} make {answer.text!r}.",
                step(
                    {"stream_predict": request(features(prompt=prompt), settings)},
                    {"stream": stream_of(answer, messages=True)},
                ),
            )
        both = Settings(max_tokens=len("The capital"), stop=("capital",))
        answer = self._ask(CAPITAL, both)
        yield one_case(
            "stream.stop.at_length",
            "A stop text that is complete with the last token that max_tokens allows is the reason.",
            step({"stream_predict": request(features(prompt=CAPITAL), both)}, {"stream": stream_of(answer)}),
        )
        held = Settings(max_tokens=len("The cap"), stop=("capital",))
        answer = self._ask(CAPITAL, held)
        yield one_case(
            "stream.stop.held_at_length",
            "What was held back when max_tokens ends the text is delivered.",
            step({"stream_predict": request(features(prompt=CAPITAL), held)}, {"stream": stream_of(answer)}),
        )

    def _sampling(self) -> Iterator[str]:
        settings = [
            Settings(40, temperature=1.5, seed=12),
            Settings(40, temperature=1.0, seed=4),
            Settings(40, temperature=2.0, top_k=3, seed=11),
            Settings(40, temperature=8.0, top_k=2, top_p=0.75, seed=12),
            Settings(40, temperature=2.0, top_p=0.4, seed=(1 << 64) - 1),
            Settings(40, temperature=2.5, top_p=0.25, seed=1 << 32),
            Settings(40, temperature=0.25, seed=0),
        ]
        yield one_case(
            "stream.sample.settings",
            "Temperature, top_k, top_p and seeds of all sizes, as docs/sampling.md has them.",
            *(
                step(
                    {"stream_predict": request(features(prompt=STORY), one)},
                    {"stream": stream_of(self._ask(STORY, one))},
                )
                for one in settings
            ),
        )
        one = Settings(24, temperature=2.0, top_k=4)
        seeds = self._robust_seeds(STORY, one, 4)
        answers = [self._ask(STORY, dataclasses.replace(one, seed=seed)) for seed in seeds]
        if len({answer.token_ids for answer in answers}) < 2:
            raise ValueError("expected seeds to differ")
        yield one_case(
            "stream.sample.seeds",
            "The same seed gives the same tokens, however often and beside whatever else; other seeds give others.",
            *(
                step(
                    {
                        "stream_predict": request(features(prompt=STORY), dataclasses.replace(one, seed=answer.seed)),
                        "concurrency": 4,
                        "repeat": 2,
                    },
                    {"stream": {**stream_of(answer), "most_different": 1}},
                )
                for answer in answers
            ),
        )
        ids = [f"request {number}" for number in range(100)]
        found = [
            (name, dataclasses.replace(one, seed=seed_of(name)))
            for name in ids
            if self._is_robust(STORY, dataclasses.replace(one, seed=seed_of(name)))
        ][:2] + [
            (name, dataclasses.replace(one, seed=seed_of(name)))
            for name in ("größe ✓", "größe ✓✓", "größe ✓✓✓")
            if self._is_robust(STORY, dataclasses.replace(one, seed=seed_of(name)))
        ][:1]
        yield one_case(
            "stream.sample.request_id",
            "Without a seed it is derived from the request_id, so that a retry gives the same tokens: the first 8 "
            "bytes of its SHA-256, little-endian, which the final message tells.",
            *(
                step(
                    {
                        "stream_predict": request(features(prompt=STORY), one, seeded=False, request_id=name),
                        "repeat": 2,
                    },
                    {"stream": stream_of(self._ask(STORY, chosen))},
                )
                for name, chosen in found
            ),
        )
        name = found[0][0]
        other = dataclasses.replace(one, seed=seeds[0])
        yield one_case(
            "stream.sample.seed_before_request_id",
            "A seed that is given counts, whatever the request_id.",
            step(
                {"stream_predict": request(features(prompt=STORY), other, request_id=name)},
                {"stream": stream_of(self._ask(STORY, other))},
            ),
        )
        greedy = self._ask(CAPITAL)
        yield one_case(
            "stream.sample.greedy",
            "Temperature 0 is greedy whatever the seed, top_k and top_p, and tells seed 0.",
            *(
                step(
                    {"stream_predict": {**request(features(prompt=CAPITAL)), "config": given, "request_id": "greedy"}},
                    {"stream": stream_of(greedy)},
                )
                for given in ({"seed": "7"}, {"seed": "7", "top_k": 5, "top_p": 0.5}, {"top_k": 259})
            ),
        )
        first = dataclasses.replace(greedy, seed=7)
        yield one_case(
            "stream.sample.top_k_1",
            "top_k 1 leaves the likeliest token alone at any temperature: the tokens of greedy, and the seed is told. "
            "So does the smallest top_p.",
            step(
                {"stream_predict": request(features(prompt=CAPITAL), Settings(temperature=100, top_k=1, seed=7))},
                {"stream": stream_of(first)},
            ),
            step(
                {
                    "stream_predict": {
                        **request(features(prompt=CAPITAL)),
                        "config": {"temperature": 1, "top_p": 1e-30, "seed": "7"},
                    }
                },
                {"stream": stream_of(first)},
            ),
        )
        drawn = {**request(features(prompt=STORY)), "config": {"temperature": 4, "max_tokens": 40}}
        yield one_case(
            "stream.sample.drawn",
            "Without a seed and a request_id the seed is drawn: eight times the same request gives other tokens each "
            "time.",
            step(
                {"stream_predict": drawn, "concurrency": 8},
                {"stream": {"least_different": 7}},
            ),
        )
        exact = [
            Settings(64, temperature=1.0, seed=3),
            Settings(64, temperature=4.0, top_k=4, seed=4),
            Settings(64, temperature=4.0, top_k=3, seed=4),
            Settings(64, temperature=2.0, top_p=0.9, seed=6),
            Settings(64, temperature=100.0, seed=7),
            Settings(64, temperature=0.0625, seed=8),
        ]
        yield one_case(
            "stream.sample.exact",
            "Five tokens with logits 8, 6.5, 6, 2 and 2, all others 1000 below them: the same on every machine, to the "
            "bit. Of the two that tie, top_k 4 leaves the one with the lower id.",
            *(
                step(
                    {
                        "stream_predict": {
                            "model_id": "token-lm",
                            "features": features(prompt="Q", raw=True),
                            "config": config(settings),
                        }
                    },
                    {"stream": stream_of(self._table.generate("Q", settings))},
                )
                for settings in exact
            ),
        )
        same = {"stream_predict": request(features(prompt=STORY), dataclasses.replace(one, seed=seeds[1]))}
        yield one_case(
            "stream.sample.out_of_range_top_k",
            "A top_k beyond the vocabulary is no limit; top_p 1 is none.",
            *(
                step(
                    {
                        "stream_predict": {
                            **request(features(prompt=STORY)),
                            "config": {"temperature": 1.5, "seed": "12", "max_tokens": 40, **more},
                        }
                    },
                    {"stream": stream_of(self._ask(STORY, Settings(40, temperature=1.5, seed=12)))},
                )
                for more in ({"top_k": 259}, {"top_k": 2147483647}, {"top_p": 1})
            ),
            step(same, {"stream": stream_of(answers[1])}),
        )

    def _is_robust(self, prompt: str, settings: Settings) -> bool:
        try:
            self._ask(prompt, settings)
        except ValueError:
            return False
        return True

    def _robust_seeds(self, prompt: str, settings: Settings, count: int) -> list[int]:
        found = (seed for seed in range(1, 1000) if self._is_robust(prompt, dataclasses.replace(settings, seed=seed)))
        return [next(found) for _ in range(count)]

    def _together(self) -> Iterator[str]:
        story, capital, count = self._ask(STORY), self._ask(CAPITAL), self._ask(QUESTIONS["count"])
        wanted = [
            (STORY, story),
            (CAPITAL, capital),
            (QUESTIONS["count"], count),
            (JAPANESE, self._ask(JAPANESE)),
        ]
        yield one_case(
            "stream.together.many",
            "More streams than there are slots, of several prompts, joining and leaving at any time: each has the "
            "tokens that it has alone.",
            *(
                step(
                    {
                        "stream_predict": request(features(prompt=prompt)),
                        "concurrency": 6,
                        "repeat": 3,
                        "connections": 2,
                    },
                    {"stream": {**stream_of(answer), "equals_predict": False}},
                    background=f"stream {number}",
                )
                for number, (prompt, answer) in enumerate(wanted)
            ),
            *(f"      - await: {flow(f'stream {number}')}" for number in range(len(wanted))),
        )
        short = Settings(max_tokens=5)
        requests = [
            request(features(prompt=CAPITAL), request_id="first"),
            request(features(prompt=STORY), short),
            {"model_id": "identity", "features": {"x": {"float_value": 2}}},
            {"model_id": MODEL, "features": features(prompt=CAPITAL, messages="[]")},
            request(features(prompt=JAPANESE), Settings(stop=("世界",))),
        ]
        results = [
            {"predict": {**predict_of(capital), "request_id": "first"}},
            {"predict": predict_of(self._ask(STORY, short))},
            {"predict": {"predictions": {"y": 2}}},
            {"code": "INVALID_ARGUMENT", "reason": "PROMPT_INVALID"},
            {"predict": predict_of(self._ask(JAPANESE, Settings(stop=("世界",))))},
        ]
        yield one_case(
            "stream.batch.generations",
            "BatchPredict makes texts beside other predictions, each as by itself; what is wrong fails alone.",
            step({"batch_predict": {"requests": requests}}, {"batch": {"results": results, "equals_singles": True}}),
        )
        yield one_case(
            "stream.version.chosen",
            "A version by its number, by a label, and by nothing.",
            *(
                step(
                    {"stream_predict": request(features(prompt=CAPITAL), short, model_version=version)},
                    {"stream": stream_of(self._ask(CAPITAL, short), messages=True)},
                )
                for version in ("1", "stable", "")
            ),
        )


def stream_cases(fixtures: Path) -> Iterator[str]:
    """All of them."""
    yield from Cases(fixtures / MODEL / "1", fixtures / "token-lm" / "1").all()
