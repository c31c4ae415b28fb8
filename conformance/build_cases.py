# SPDX-License-Identifier: Apache-2.0
"""Writes the files of conformance/cases that follow from something else:

    python conformance/build_cases.py [DIRECTORY]

`tensor_dtypes.yaml`: every dtype in every kind of shape. `tensor_models.yaml`: what models answer, as ONNX Runtime in
this process says. `stream_tiny_chat.yaml`: what a language model says, likewise. `security_admission.yaml`: the
refusals of conformance/admission. A test compares them.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from admission_fixtures import verdicts
from stream_cases import stream_cases

CONFORMANCE = Path(__file__).resolve().parent
CASES = CONFORMANCE / "cases"
FIXTURES = CONFORMANCE / "fixtures"

HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by conformance/build_cases.py; change that.
profile: {profile}
level: LEVEL_MUST
description: {description}
"""
PROBE = """\
probe:
  call: {tensor_predict: {}}
  expect: {code: INVALID_ARGUMENT}
"""
STREAM_PROBE = """\
probe:
  call: {stream_predict: {}}
  expect: {code: INVALID_ARGUMENT}
"""

# Bit patterns of each float type: 1, 0, -0.0, the smallest and (negative) the largest subnormal, the smallest normal
# number, the largest of either sign, the infinities, quiet NaNs without and with a payload, signalling NaNs, all ones.
FLOAT_BITS = {
    "float": (
        4,
        "3f800000 00000000 80000000 00000001 807fffff 00800000 7f7fffff ff7fffff 7f800000 ff800000 "
        "7fc00000 ffc12345 7fa00001 ff800001 ffffffff",
    ),
    "double": (
        8,
        "3ff0000000000000 0000000000000000 8000000000000000 0000000000000001 800fffffffffffff 0010000000000000 "
        "7fefffffffffffff ffefffffffffffff 7ff0000000000000 fff0000000000000 7ff8000000000000 fff8000012345678 "
        "7ff4000000000001 fff0000000000001 ffffffffffffffff",
    ),
    "float16": (2, "3c00 0000 8000 0001 83ff 0400 7bff fbff 7c00 fc00 7e00 fe55 7d01 fc01 ffff"),
    "bfloat16": (2, "3f80 0000 8000 0001 807f 0080 7f7f ff7f 7f80 ff80 7fc0 ffd5 7fa1 ff81 ffff"),
}
# Widths in bytes, and the values that are told to pass besides 0, 1 and the extremes.
INTEGERS: dict[str, tuple[int, bool, Sequence[int]]] = {
    "int8": (1, True, [-1, 85]),
    "int16": (2, True, [-1, 256, -257]),
    "int32": (4, True, [-1, 1 << 24, (1 << 24) + 1]),
    "int64": (8, True, [-1, (1 << 53) + 1, -(1 << 53) - 1, (1 << 62) + 1]),
    "uint8": (1, False, [127, 128]),
    "uint16": (2, False, [255, 256, 32768]),
    "uint32": (4, False, [1 << 31, (1 << 24) + 1]),
    "uint64": (8, False, [1 << 63, (1 << 53) + 1, (1 << 64) - 2]),
}
# No text, a NUL in the middle and at the end, several bytes for a letter, line ends, and bytes that are no UTF-8: one
# that never occurs, half a letter, a surrogate, an overlong form.
STRINGS = [
    b"",
    b"a\0b",
    b"end\0",
    "größe ✓ 日本 😀".encode(),
    b"\r\n\t",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xc0\x80",
]


def hexed(data: bytes) -> str:
    """Bytes as the case files have them."""
    if len(data) <= 48:
        return json.dumps(data.hex(" ", -4))
    return '"\n' + textwrap.indent("\n".join(textwrap.wrap(data.hex(" ", -4), 108)), " " * 16) + '"'


def word(text: str) -> str:
    """A text in a flow of YAML, quoted where it must be."""
    return text if text.replace("-", "").replace("_", "").isalnum() and not text.isdigit() else json.dumps(text)


class Tensor:
    """A tensor of a case: how it is written in the request, and the fills that give its elements."""

    def __init__(self, dtype: str, shape: Sequence[int], data: bytes = b"", strings: Sequence[bytes] = ()) -> None:
        self.dtype, self.shape, self.data, self.strings = dtype, list(shape), data, list(strings)

    def plain(self) -> str:
        """All but the elements."""
        empty = ", ".join(['""'] * len(self.strings))
        strings = f", strings: [{empty}]" if self.strings else ""
        return f"{{dtype: DATA_TYPE_{self.dtype.upper()}, shape: {self.shape}{strings}}}"

    def fills(self, path: str) -> list[str]:
        """The elements."""
        fills = [f"{{path: '{path}.data', hex: {hexed(self.data)}}}"] if self.data else []
        return fills + [
            f"{{path: '{path}.strings[{index}]', hex: {hexed(string)}}}"
            for index, string in enumerate(self.strings)
            if string
        ]


def step(model_id: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> str:
    """One call of ModelInference, and its answer."""
    lines = ["      - call:", f"          tensor_predict: {{model_id: {model_id}{_tensors('inputs', inputs)}}}"]
    lines += _fills("inputs", inputs)
    first = next(iter(inputs.values()), Tensor("float", []))
    rows = first.shape[0] if first.shape and first.shape[0] else 1
    lines += [
        "        expect:",
        f"          tensor_predict: {{timing: {{batch_rows: {rows}}}{_tensors('outputs', outputs)}}}",
    ]
    return "\n".join(lines + _fills("outputs", outputs))


def _tensors(field: str, tensors: Mapping[str, Tensor]) -> str:
    if not tensors:
        return ""
    return f", {field}: {{{', '.join(f'{word(name)}: {tensor.plain()}' for name, tensor in tensors.items())}}}"


def _fills(field: str, tensors: Mapping[str, Tensor]) -> list[str]:
    fills = [fill for name, tensor in tensors.items() for fill in tensor.fills(f'{field}["{name}"]')]
    return ["          fills:", *(f"            - {fill}" for fill in fills)] if fills else []


def case(case_id: str, description: str, *steps: str) -> str:
    """One case."""
    return f"  - id: {case_id}\n    description: {description}\n    steps:\n" + "\n".join(steps) + "\n"


def document(profile: str, description: str, cases: Iterator[str], *, probe: str = "") -> str:
    """One file of cases."""
    return HEAD.format(profile=profile, description=description) + probe + "cases:\n" + "\n".join(cases)


# --- every dtype -----------------------------------------------------------------------------------------------------


def dtype_cases() -> Iterator[str]:
    """A vector of all that is hard, a scalar, empty tensors and a matrix of rank 5, of each dtype."""
    for name, (width, patterns) in FLOAT_BITS.items():
        elements = [int(pattern, 16).to_bytes(width, "little") for pattern in patterns.split()]
        yield passing(name, elements, "-0.0, subnormals, infinities, NaNs with payloads and signalling ones")
    for name, (width, signed, more) in INTEGERS.items():
        bits = 8 * width
        extremes = [-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [(1 << bits) - 1]
        elements = [value.to_bytes(width, "little", signed=signed) for value in [0, 1, *extremes, *more]]
        yield passing(name, elements, "the extremes and what a double cannot hold" if width == 8 else "the extremes")
    yield passing("bool", [b"\0", b"\1", b"\1"], "both values")
    yield passing("string", STRINGS, "NUL, several bytes a letter, bytes that are no UTF-8")
    # Four neighbours of 16 bits are one 64-bit integer: counting up by 4 in each gives every pattern.
    step_by = 0x0004000400040004
    for name in ("float16", "bfloat16"):
        kind = f"{{dtype: DATA_TYPE_{name.upper()}, shape: [32768]}}"
        halves = []
        for start in (0x0003000200010000, 0x8003800280018000 - (1 << 64)):
            values = f'int64s: {{start: "{start}", step: "{step_by}", count: 8192}}'
            halves.append(f"""\
      - call:
          tensor_predict: {{model_id: any-{name}, inputs: {{x: {kind}}}}}
          fills: [{{path: 'inputs["x"].data', {values}}}]
        expect:
          tensor_predict: {{outputs: {{"y": {kind}}}}}
          fills: [{{path: 'outputs["y"].data', {values}}}]""")
        yield case(
            f"tensor.dtype.{name}_every_pattern",
            f"All 65536 bit patterns of {name} come out as they went in; four are counted up in one 64-bit integer.",
            *halves,
        )


def passing(name: str, elements: Sequence[bytes], what: str) -> str:
    """The case of one dtype."""
    steps = []
    for shape in ([len(elements)], [], [1], [0], [3, 0, 2], [1, len(elements), 1, 1, 1]):
        count = int(np.prod(shape))
        held = elements[-count:] if count else []
        given = Tensor(name, shape, strings=held) if name == "string" else Tensor(name, shape, b"".join(held))
        steps.append(step(f"any-{name}", {"x": given}, {"y": given}))
    described = (
        f"{name} comes out bit for bit - {what} - as vector, scalar, one element, empty in two ways and in five axes."
    )
    return case(f"tensor.dtype.{name}", described, *steps)


# --- what ONNX Runtime gives -----------------------------------------------------------------------------------------

F, L = np.float32, np.int64
LEAST, MOST = -(1 << 63), (1 << 63) - 1
GRID = np.arange(-12, 13, dtype=F).reshape(1, 1, 5, 5)
MODELS: list[tuple[str, str, str, list[dict[str, Any]]]] = [
    (
        "add_sub",
        "Two inputs, two outputs, each by its name.",
        "add-sub",
        [
            {"a": np.array([1, -2.5, 0], F), "b": np.array([0.5, 4, -0.0], F)},
            {"a": np.zeros(0, F), "b": np.zeros(0, F)},
        ],
    ),
    (
        "one_for_all",
        "Inputs that share an axis by name may differ where the graph broadcasts.",
        "add-sub",
        [{"a": np.array([1, 2, 3], F), "b": np.array([10], F)}],
    ),
    (
        "many_kinds",
        "A matrix, a scalar bool, strings and a fixed vector in one request.",
        "mixed-inputs",
        [
            {
                "matrix": np.array([[1, 2, 3], [4, 5, 6]], F),
                "flag": np.array(True),
                "words": np.array(["ja", "", "nein"], object),
                "count": np.array([7, -7], np.int32),
            }
        ],
    ),
    ("nothing_in", "A model without inputs answers a request without inputs.", "nothing-in", [{}]),
    ("cubed", "Rank three, turned around.", "cubed", [{"x": np.arange(24, dtype=F).reshape(2, 4, 3)}]),
    (
        "mlp",
        "A net of two layers, one row and many - whole numbers, so that adding in any order gives the same bits.",
        "mlp",
        [
            {"x": np.array([[1, 2, 3, 4]], F)},
            {"x": np.array([[(3 * i + 5 * j) % 9 - 4 for j in range(4)] for i in range(17)], F)},
            {"x": np.zeros((0, 4), F)},
        ],
    ),
    (
        "conv",
        "Convolution and pooling of one image and of two - whole numbers again.",
        "conv",
        [{"image": GRID}, {"image": np.concatenate([GRID, GRID[..., ::-1] * 2])}],
    ),
    (
        "non_zero",
        "The output's shape follows from the data; nothing found is an answer of shape [2, 0].",
        "non-zero",
        [
            {"x": np.array([[0, 1.5, 0], [-2, 0, np.nan]], F)},
            {"x": np.array([[0, -0.0]], F)},
            {"x": np.zeros((0, 3), F)},
            {"x": np.ones((3, 4), F)},
        ],
    ),
    (
        "split_words",
        "Strings, as many as the longest text has words.",
        "split-words",
        [
            {"text": np.array(["ein zwei drei", "vier", ""], object)},
            {"text": np.array(["größe ✓"], object)},
            {"text": np.array([], object)},
        ],
    ),
    (
        "zeros",
        "An output of unknown rank - a matrix, a scalar, nothing.",
        "zeros",
        [{"shape": np.array(shape, L)} for shape in ([2, 3], [], [0], [2, 0, 2])],
    ),
    (
        "range",
        "Up, down, and none at all.",
        "range",
        [
            {"start": np.array(a, L), "limit": np.array(b, L), "delta": np.array(c, L)}
            for a, b, c in ((0, 5, 1), (5, 0, -2), (5, 0, 1), (MOST - 2, MOST, 1), (LEAST, LEAST + 2, 1))
        ],
    ),
    (
        "tile",
        "Twice, and never.",
        "tile",
        [{"x": np.array([1, 2], F), "repeats": np.array([count], L)} for count in (2, 0)],
    ),
    (
        "pad",
        "Longer at both ends, and shorter.",
        "pad",
        [{"x": np.array([1, 2, 3], F), "pads": np.array(pads, L)} for pads in ([1, 2], [-1, 0], [0, 0])],
    ),
    (
        "one_hot",
        "As many columns as an input says.",
        "one-hot",
        [{"at": np.array([2, 0, -1], L), "depth": np.array(depth, L)} for depth in (3, 1)],
    ),
    (
        "reshape",
        "The shape is data - also a scalar's, and one of an axis of length -1, which the runtime works out.",
        "reshape",
        [
            {"x": np.arange(count, dtype=F), "shape": np.array(shape, L)}
            for count, shape in ((4, [2, -1]), (1, []), (6, [1, 3, 1, 2]))
        ],
    ),
    (
        "slice",
        "Slices, also from and to the ends of an int64, which mean the ends of the axis.",
        "slice",
        [
            {"x": np.arange(4, dtype=F), "start": np.array([a], L), "end": np.array([b], L), "step": np.array([c], L)}
            for a, b, c in ((0, 3, 1), (3, 0, -1), (LEAST, MOST, MOST), (MOST, LEAST, LEAST), (2, 2, 1))
        ],
    ),
]
ADMITTED: dict[str, list[dict[str, Any]]] = {
    "identity": [{"x": np.array([1, 2], F)}],
    "functions-doubling-8": [{"x": np.array([1, -2], F)}],
    "nested-16": [{"x": np.array([1, 2], F), "c": np.array(True)}],
    "divide-int64-by-3": [{"x": np.array([7, -7, MOST, LEAST], L)}],
    "modulo-int64-by-7": [{"x": np.array([8, -8, MOST, LEAST], L)}],
    "divide-float-by-input": [{"x": np.array([1, -1, 8], F), "z": np.array([0, 0, 4], F)}],
    "shape-by-2": [{"x": np.zeros(7, F)}],
}


def model_cases() -> Iterator[str]:
    """What the models answer."""
    for name, description, model_id, requests in MODELS:
        yield case(f"tensor.model.{name}", description, *(computed(model_id, request) for request in requests))
    for name, requests in ADMITTED.items():
        yield case(
            f"tensor.admitted.{name.replace('-', '_')}",
            f"A graph that admission lets pass ({name}) answers as ONNX Runtime does.",
            *(computed(f"admitted-{name}", request) for request in requests),
        )


def computed(model_id: str, feeds: Mapping[str, Any]) -> str:
    """A call with these inputs, and what ONNX Runtime answers."""
    session = onnxruntime.InferenceSession(
        str(FIXTURES / model_id / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    answer = zip(names, session.run(names, dict(feeds)), strict=True)
    return step(model_id, {n: from_numpy(v) for n, v in feeds.items()}, {n: from_numpy(v) for n, v in answer})


def from_numpy(array: Any) -> Tensor:
    """A NumPy array as a tensor of a case."""
    if array.dtype == object:
        return Tensor("string", array.shape, strings=[str(element).encode() for element in array.reshape(-1)])
    name = {"float32": "float", "float64": "double"}.get(array.dtype.name, array.dtype.name)
    return Tensor(name, array.shape, array.tobytes())


# --- admission -------------------------------------------------------------------------------------------------------


def admission_cases() -> Iterator[str]:
    """A case for each graph that is refused, and one for those that are not."""
    for name, refusal in verdicts().items():
        if not refusal:
            continue
        model_id = f"refused-{name}"
        message = json.dumps(f'model "{model_id}" version 1 failed to load: {refusal}')
        yield case(
            f"security.admission.{name.replace('-', '_')}",
            json.dumps(f"Refused before it is loaded - {refusal}"),
            f"""\
      - call: {{get_model: {{model_id: {model_id}}}}}
        expect:
          model:
            model_id: {model_id}
            versions:
              - version: "1"
                state: MODEL_STATE_FAILED
                error:
                  code: 9
                  message: {message}""",
            f"""\
      - call: {{predict: {{model_id: {model_id}, features: {{x: {{float_value: 1}}}}}}}}
        expect:
          code: FAILED_PRECONDITION
          reason: MODEL_FAILED
          message: {message}
          error_metadata: {{model_id: {model_id}, model_version: "1"}}""",
            f"""\
      - call: {{health_check: {{service: models/{model_id}}}}}
        expect: {{health: {{statuses: [NOT_SERVING]}}}}""",
        )
    yield case(
        "security.admission.admitted",
        "The rules refuse no more than they say - neighbours of what is refused are served.",
        *(
            f"""\
      - call: {{health_check: {{service: models/admitted-{name}}}}}
        expect: {{health: {{statuses: [SERVING]}}}}"""
            for name, refusal in verdicts().items()
            if not refusal
        ),
    )


def build(directory: Path) -> None:
    """Writes the files into `directory`."""
    files = {
        "tensor_dtypes.yaml": document(
            "tensor",
            "Every dtype comes out with the bits that went in, whatever its shape.",
            dtype_cases(),
            probe=PROBE,
        ),
        "tensor_models.yaml": document(
            "tensor", "What models answer, as ONNX Runtime in process says.", model_cases(), probe=PROBE
        ),
        "stream_tiny_chat.yaml": document(
            "stream",
            "What a language model says, as ONNX Runtime in process and conformance/generator_reference.py say.",
            stream_cases(FIXTURES),
            probe=STREAM_PROBE,
        ),
        "security_admission.yaml": document(
            "security", "Graphs that are refused before they are loaded, each with its reason.", admission_cases()
        ),
    }
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Writes conformance/cases, or the directory given."""
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else CASES)


if __name__ == "__main__":
    main()
