# SPDX-License-Identifier: Apache-2.0
"""What a request gives a generator to continue.

conformance/generate/prompts.json has its rules and words as data, for both servers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from concord_proto.inference.v1 import inference_service_pb2, model_pb2

from concord_server import fault
from concord_server.fault import Fault, Reason, Violation, quote, scrub
from concord_server.generate.features import FEATURES
from concord_server.generate.tokenizer import Tokenizer, TokenizerError

__all__ = ["Prompt", "read_prompt"]

FeatureValue = inference_service_pb2.FeatureValue

_NO_NUL = "expected a text without NUL characters, got one"
_DEEPEST = 16
"""How many lists and objects of messages may be in one another: two are right; libraries have limits of their own."""


class Prompt(NamedTuple):
    """What is to be continued: one of the two."""

    messages: str = ""
    """A JSON list of {"role","content"} for the chat template."""
    raw: str = ""
    """The text itself, without a template."""
    said: str = ""
    """The contents of the messages, one after the other."""

    def tokens(self, tokenizer: Tokenizer, context: int) -> list[int]:
        """The prompt's, at least one; with one more they fit into the context. Raises Fault."""
        text = self.raw
        if self.messages:
            _check_text(self.said, context)
            try:
                text = tokenizer.template(self.messages)
            except TokenizerError as error:
                raise _bad("messages", f"the model's chat template refuses it: {scrub(str(error))}") from None
        _check_text(text, context)
        try:
            tokens = tokenizer.encode(text)
        except TokenizerError as error:
            raise _bad("prompt", f"the model's tokenizer refuses it: {scrub(str(error))}") from None
        if not tokens:
            raise _bad("prompt", "expected at least one token, got none")
        if len(tokens) >= context:
            text = f"expected at most {context - 1} tokens, the chat template's included, got {len(tokens)}"
            raise fault.from_violations([_violation(Reason.PROMPT_TOO_LONG, "prompt", text)])
        return tokens


_TOKEN_BYTES = 64
"""More than nearly every token of a prompt has: a longer text is not worth a tokenizer's time."""
_LONGEST_WORD = 4096
"""Most characters of one kind in a row: what a tokenizer takes for one word costs it the square of its length."""
_LONG_WORD = re.compile(
    rf"[^\W\d_]{{{_LONGEST_WORD + 1}}}|\d{{{_LONGEST_WORD + 1}}}|(?:[^\w\s]|_){{{_LONGEST_WORD + 1}}}"
)


def _check_text(text: str, context: int) -> None:
    """Raises Fault where a tokenizer must not be given a text: once it has begun nothing ends it."""
    size = len(text.encode())
    if size > _TOKEN_BYTES * context:
        wrong = f"expected at most {context - 1} tokens, the chat template's included, got a text of {size} bytes"
        raise fault.from_violations([_violation(Reason.PROMPT_TOO_LONG, "prompt", wrong)])
    if len(text) > _LONGEST_WORD and _LONG_WORD.search(text):
        raise _bad("prompt", f"expected at most {_LONGEST_WORD} letters, digits or signs in a row, got more")


def read_prompt(features: Mapping[str, FeatureValue]) -> Prompt:
    """Makes a prompt of a request's features. Raises Fault."""
    _check(features)
    # An absent feature has its default, which is empty; looking one up in the message would add it.
    given = {name: features[name] for name in features}
    nothing = FeatureValue()
    text, messages = (given.get(name, nothing).string_value for name in ("prompt", "messages"))
    system, raw = given.get("system", nothing).string_value, given.get("raw", nothing).bool_value
    for name, value in (("prompt", text), ("system", system)):
        if "\0" in value:
            raise _bad(name, _NO_NUL)
    if not text and not messages:
        raise _bad("prompt", 'expected a text, or the feature "messages", got neither')
    if text and messages:
        raise _bad("messages", 'expected it or the feature "prompt", got both')
    if raw and messages:
        raise _bad("raw", 'expected false beside the feature "messages", got true')
    if raw and system:
        raise _bad("raw", 'expected false beside the feature "system", got true')
    if raw:
        return Prompt(raw=text)
    said = _read(messages) if messages else [_Message("user", text)]
    if system:
        for i, message in enumerate(said):
            if message.role == "system":
                wrong = f'expected no system message in the feature "messages" beside it, got message {i}'
                raise _bad("system", wrong)
        said.insert(0, _Message("system", system))
    listed = [message._asdict() for message in said]
    texts = "\n".join(message.content for message in said)
    return Prompt(json.dumps(listed, ensure_ascii=False, separators=(",", ":")), said=texts)


def _check(features: Mapping[str, FeatureValue]) -> None:
    """Finds what is wrong with the features by themselves, as any model's.

    The generator's own come in their order, then unknown names.
    """
    found = []
    for feature in FEATURES:
        if feature.name not in features:
            continue
        is_bool = feature.type == model_pb2.FEATURE_TYPE_BOOL
        kind = features[feature.name].WhichOneof("value")
        if kind != ("bool_value" if is_bool else "string_value"):
            text = f"expected a {'bool' if is_bool else 'string'}, got {kind or 'no value'}"
            found.append(_violation(Reason.FEATURE_TYPE_MISMATCH, feature.name, text))
    # Code points and UTF-8 bytes are in the same order.
    for name in sorted(set(features) - {feature.name for feature in FEATURES}):
        found.append(_violation(Reason.FEATURE_UNKNOWN, name, "the model has no such feature"))
    if found:
        raise fault.from_violations(found)


def _bad(name: str, text: str) -> Fault:
    return fault.from_violations([_violation(Reason.PROMPT_INVALID, name, text)])


def _violation(reason: Reason, name: str, text: str) -> Violation:
    quoted = quote(name)
    return Violation(reason, f"features[{quoted}]", f"feature {quoted}: {text}")


class _Message(NamedTuple):
    """One of a conversation."""

    role: str
    content: str


class _Object(NamedTuple):
    """A JSON object as it is written."""

    pairs: list[tuple[str, object]]


_LIST = 'expected a JSON list of {"role", "content"}, got '
# Possessive, and good for a string without an end as well: its time is that of reading the text once.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udfff]")


def _read(text: str) -> list[_Message]:
    """Reads a JSON list of messages."""
    if _too_deep(text):
        raise _bad("messages", f"{_LIST}one that is nested more than {_DEEPEST} deep")
    try:
        # Numbers are not read: none is wanted, and Python refuses long ones.
        elements = json.loads(
            text, object_pairs_hook=_Object, parse_int=_number, parse_float=_number, parse_constant=_no_constant
        )
    except ValueError:
        raise _bad("messages", _LIST + "no JSON") from None
    if not isinstance(elements, list):
        raise _bad("messages", _LIST + _kind(elements))
    if not elements:
        raise _bad("messages", "expected at least one message, got none")
    return [_read_message(i, element) for i, element in enumerate(elements)]


def _read_message(at: int, element: object) -> _Message:
    def bad(text: str) -> Fault:
        return _bad("messages", f"message {at}: {text}")

    if not isinstance(element, _Object):
        raise bad('expected {"role", "content"}, got ' + _kind(element))
    found: dict[str, str] = {}
    for key, value in element.pairs:
        name = _whole(key)
        quoted = quote(name)
        if name in found:
            raise bad(f"{quoted} is there twice")
        if name not in _Message._fields:
            raise bad(f'expected nothing but "role" and "content", got {quoted}')
        if not isinstance(value, str):
            raise bad(f"{quoted}: expected a text, got {_kind(value)}")
        if "\0" in value:
            raise bad(f"{quoted}: {_NO_NUL}")
        found[name] = _whole(value)
    for name in _Message._fields:
        if name not in found:
            raise bad(f"expected {quote(name)}, got nothing")
    if not found["role"]:
        raise bad('"role": expected at least one character, got none')
    return _Message(**found)


def _whole(text: str) -> str:
    """The text with half characters, which only escapes can make, replaced."""
    return _SURROGATES.sub("\ufffd", text)


def _number(_digits: str) -> float:
    return 0.0


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _kind(value: object) -> str:
    """What a JSON value is, in a message."""
    if isinstance(value, _Object):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "a bool"
    return "null" if value is None else "a number"


def _too_deep(text: str) -> bool:
    """Whether more than _DEEPEST lists and objects are in one another."""
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token.group()[0]
        if first in "[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif first in "]}":
            depth -= 1
    return False
