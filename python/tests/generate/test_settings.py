# SPDX-License-Identifier: Apache-2.0
"""genai_config.json and tokenizer.json, read with bounds; the Go server's tests have the same words."""

from __future__ import annotations

import pytest
from concord_server.generate.settings import Settings, SettingsError, parse_settings
from concord_server.generate.vocabulary import check_tokenizer

PLAIN = (
    '{"model":{"context_length":512,"vocab_size":259,"eos_token_id":[2,0],"decoder":{"head_size":16,"num_hidden_layers":2,'
    '"num_key_value_heads":3,"inputs":{"past_key_names":"past.%d.k"}}},"search":{"top_k":50}}'
)
NUMBER = "expected 1 to 16777216, got"


def test_settings() -> None:
    got = parse_settings(PLAIN.encode())
    assert got == Settings(
        context=512,
        vocabulary=259,
        layers=2,
        heads=3,
        head_size=16,
        end_tokens=(2, 0),
        input_ids="input_ids",
        attention_mask="attention_mask",
        position_ids="position_ids",
        past_key="past.%d.k",
        past_value="past_key_values.%d.value",
        logits="logits",
        present_key="present.%d.key",
        present_value="present.%d.value",
    )
    assert got.cache_bytes(4) == 2 * 2 * 3 * 16 * 4


@pytest.mark.parametrize(
    ("slots", "most", "tokens"),
    [(1, 1 << 30, 512), (2, 768 * 10, 5), (1, 767, 0), (10, 768 * 9, 0), (1 << 62, 1 << 62, 0), (0, 9, 0), (1, -1, 0)],
)
def test_what_fits_into_memory(slots: int, most: int, tokens: int) -> None:
    assert parse_settings(PLAIN.encode()).fit(slots, most, 4) == tokens


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (PLAIN, "", "expected JSON"),
        (PLAIN, PLAIN + "{}", "expected JSON"),
        (PLAIN, "[" * 100_000, "expected JSON"),
        (PLAIN, "[]", f"model.context_length: {NUMBER} nothing"),
        ("512", "0", f"model.context_length: {NUMBER} 0"),
        ("512", "16777217", f"model.context_length: {NUMBER} 16777217"),
        ("512", "512.5", f"model.context_length: {NUMBER} 512.5"),
        ("512", "1e3", f"model.context_length: {NUMBER} 1e3"),
        ("512", "NaN", "expected JSON"),
        ("512", '"512"', f'model.context_length: {NUMBER} "512"'),
        ("512", "9" * 20, f"model.context_length: {NUMBER} {'9' * 20}"),
        ("512", "9" * 5000, f"model.context_length: {NUMBER} {'9' * 64}..."),
        ("259", "null", f"model.vocab_size: {NUMBER} nothing"),
        (
            '"num_hidden_layers":2',
            '"num_hidden_layers":1025',
            "model.decoder.num_hidden_layers: expected 1 to 1024, got 1025",
        ),
        ('heads":3', 'heads":-3', "model.decoder.num_key_value_heads: expected 1 to 4096, got -3"),
        ('"head_size":16', '"head_size":true', "model.decoder.head_size: expected 1 to 4096, got true"),
        ("[2,0]", "259", "model.eos_token_id: expected tokens from 0 to 258, got 259"),
        ("[2,0]", "[2,-1]", "model.eos_token_id: expected tokens from 0 to 258, got -1"),
        ("[2,0]", "[[2]]", "model.eos_token_id: expected tokens from 0 to 258, got a list"),
        ("[2,0]", "[]", "model.eos_token_id: expected 1 to 256 tokens, got 0"),
        ("[2,0]", "{}", "model.eos_token_id: expected tokens from 0 to 258, got an object"),
        ("past.%d.k", "past.k", 'model.decoder.inputs.past_key_names: expected a name with one %d, got "past.k"'),
        ("past.%d.k", "past.%d%s", 'model.decoder.inputs.past_key_names: expected a name with one %d, got "past.%d%s"'),
        ("past.%d.k", "", 'model.decoder.inputs.past_key_names: expected a name of at most 256 bytes, got ""'),
    ],
)
def test_bad_settings(old: str, new: str, text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings(PLAIN.replace(old, new, 1).encode())
    assert str(raised.value) == f"genai_config.json: {text}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            '{"model":{"type":"BPE","vocab":{"a":0,"b":16777215},"merges":[]},"added_tokens":[{"id":2,"content":"c"}]}',
            "",
        ),
        ('{"model":{"type":"Unigram","vocab":[["a",0.5]]}}', ""),
        ("", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("{}", "model: expected an object, got nothing"),
        ("[]", "model: expected an object, got nothing"),
        ('{"model":[]}', "model: expected an object, got a list"),
        ('{"model":{}}', "model.vocab: expected an object, got nothing"),
        ('{"model":{"vocab":[]}}', "model.vocab: expected an object, got a list"),
        ('{"model":{"vocab":{}}}', "model.merges: expected a list, got nothing"),
        ('{"model":{"vocab":{},"merges":{}}}', "model.merges: expected a list, got an object"),
        ('{"model":{"vocab":{"a":-1},"merges":[]}}', "model.vocab: expected tokens from 0 to 16777215, got -1"),
        ('{"model":{"vocab":{"a":1.5},"merges":[]}}', "model.vocab: expected tokens from 0 to 16777215, got 1.5"),
        (
            '{"model":{"type":"WordPiece","vocab":{"a":"b"}}}',
            'model.vocab: expected tokens from 0 to 16777215, got "b"',
        ),
        ('{"model":{"type":"Unigram"}}', "model.vocab: expected an object or a list, got nothing"),
        ('{"model":{"vocab":{},"merges":[]},"added_tokens":{}}', "added_tokens: expected a list, got an object"),
        ('{"model":{"vocab":{},"merges":[]},"added_tokens":[1]}', "added_tokens: expected objects, got 1"),
        (
            '{"model":{"vocab":{},"merges":[]},"added_tokens":[{"id":0},{"content":""}]}',
            "added_tokens: expected tokens from 0 to 16777215, got nothing",
        ),
    ],
)
def test_tokenizers(data: str, text: str) -> None:
    if not text:
        check_tokenizer(data.encode())
        return
    with pytest.raises(SettingsError) as raised:
        check_tokenizer(data.encode())
    assert str(raised.value) == f"tokenizer.json: {text}"
