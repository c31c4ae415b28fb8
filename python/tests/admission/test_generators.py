# SPDX-License-Identifier: Apache-2.0
"""Text generators on trial: every hostile tokenizer, template and setting of conformance/admission is refused."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
from typing import Any

import pytest
from concord_server import ort
from concord_server.admission import Admission, AdmissionError, Limits, Trials, Verdicts
from concord_server.generate import Package, Sizes

ROOT = pathlib.Path(__file__).resolve().parents[3] / "conformance"
CASES: list[dict[str, Any]] = json.loads((ROOT / "admission" / "generators.json").read_text())
TINY_CHAT = ROOT / "fixtures" / "tiny-chat" / "1"
FILES = ("genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def package() -> Package:
    """tiny-chat, as the repository hands it over."""
    graph = (TINY_CHAT / "model.onnx").read_bytes()
    return Package(graph, {}, {name: (TINY_CHAT / name).read_bytes() for name in FILES})


def content(parts: list[dict[str, Any]]) -> bytes:
    return b"".join(
        bytes.fromhex(part["hex"]) if "hex" in part else part["text"].encode() * part.get("times", 1) for part in parts
    )


def spoil(files: dict[str, bytes], case: dict[str, Any]) -> None:
    """Changes a package's files as a case says."""
    if "template" in case:
        config = json.loads(files["tokenizer_config.json"])
        del config["chat_template"]
        files["tokenizer_config.json"] = json.dumps(config).encode()
        files["chat_template.jinja"] = content(case["template"])
        if not files["chat_template.jinja"]:
            del files["chat_template.jinja"]
    elif "old" in case:
        old = case["old"].encode()
        assert old in files[case["file"]]
        files[case["file"]] = files[case["file"]].replace(old, content(case["new"]), 1)
    elif "file" in case:
        files[case["file"]] = content(case["new"])


def admission(seconds: float, cache: pathlib.Path | None = None, genai: Any = ort.genai_library) -> Admission:
    return Admission(Trials(Limits(seconds, 1 << 30)), Verdicts(cache), runtime=ort.VERSION, genai=genai)


def verdict(judge: Admission, given: Package) -> str:
    try:
        judge.admit_generator(given, Sizes(threads=1))
    except AdmissionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_hostile(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = package()
    files = dict(given.files)
    spoil(files, case)
    got = verdict(admission(1 if case.get("brief") else 60), Package(given.graph, {}, files))
    assert re.fullmatch(case["refused"], got), got
    assert list(tmp_path.iterdir()) == []  # whatever became of the child


def test_its_graph_is_none_of_another_kind() -> None:
    with pytest.raises(AdmissionError) as raised:
        admission(60).admit(package().graph, {})
    assert (
        str(raised.value)
        == "model.onnx: operator com.microsoft.GroupQueryAttention is admitted in text generators alone"
    )


def test_without_the_library() -> None:
    def missing() -> pathlib.Path:
        raise FileNotFoundError("none")

    for genai in (None, missing, lambda: pathlib.Path("/no/such/file")):
        assert verdict(admission(60, genai=genai), package()) == "kind generator: this server has no onnxruntime-genai"


def test_files_that_cannot_be_written_are_no_fault_of_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    said = verdict(admission(60, tmp_path / "kept"), package())
    assert said == "trial load: the tokenizer's files cannot be written"
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_verdict_is_kept_for_these_very_files(tmp_path: pathlib.Path) -> None:
    judge = admission(60, tmp_path)
    assert verdict(judge, package()) == ""
    judge._trials.close()  # from here on only what is kept is known
    assert verdict(judge, package()) == ""
    given = package()
    for name in FILES:
        other = Package(given.graph, {}, {**given.files, name: given.files[name] + b" "})
        assert verdict(judge, other) == "the server is shutting down"
    with pytest.raises(AdmissionError, match="shutting down"):
        judge.admit(given.graph, given.files)
