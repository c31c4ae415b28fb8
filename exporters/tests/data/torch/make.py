# SPDX-License-Identifier: Apache-2.0
"""Makes the PyTorch exports that the tests hold: packages by export_torch, and what the modules themselves answered.

    python exporters/tests/data/torch/make.py

It needs torch and onnxscript, which nothing else here needs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from concord_export import TorchSource, export_torch

HERE = Path(__file__).parent


class Digits(torch.nn.Module):  # type: ignore[misc]
    """A small convolutional network: 64 pixels to probabilities of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.hidden = torch.nn.Linear(4 * 16, 16)
        self.digits = torch.nn.Linear(16, 10)

    def forward(self, pixels: Any) -> Any:
        """[rows, 64] to [rows, 10]."""
        seen = torch.relu(self.convolution(pixels.reshape(-1, 1, 8, 8)))
        seen = torch.nn.functional.max_pool2d(seen, 2).flatten(1)
        return torch.softmax(self.digits(torch.relu(self.hidden(seen))), dim=-1)


class Words(torch.nn.Module):  # type: ignore[misc]
    """A recurrent network over token ids of any length, with two outputs: a score, and the token that weighed most."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.mixer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.score = torch.nn.Linear(8, 1)

    def forward(self, ids: Any) -> Any:
        """[rows, length] to scores [rows] and places [rows]."""
        each = self.score(self.mixer(self.words(ids))).squeeze(-1)
        return torch.tanh(each.mean(dim=1)), each.argmax(dim=1)


def sources() -> dict[str, TorchSource]:
    """The modules, with seeded weights and rows."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    return {
        "digits": TorchSource(
            Digits(),
            {"pixels": rng.integers(0, 17, (40, 64)).astype(np.float32)},
            ["probabilities"],
            kind="tabular",
            classes={"probabilities": [str(digit) for digit in range(10)]},
            description="A digit from 64 pixels.",
        ),
        "words": TorchSource(
            Words(),
            {"ids": rng.integers(0, 50, (40, 7))},
            ["score", "place"],
            open_axes={"ids": {1: "length"}},
            kind="tabular",
        ),
    }


def main() -> None:
    """Writes the graphs and the modules' answers beside this file."""
    for name, source in sources().items():
        with tempfile.TemporaryDirectory() as folder:
            made = export_torch(source, Path(folder) / name / "1")
            (HERE / f"{name}.onnx").write_bytes((made.directory / "model.onnx").read_bytes())
            parity = made.manifest.parity
        rows = {key: torch.from_numpy(np.asarray(array)) for key, array in source.rows.items()}
        with torch.no_grad():
            given = source.module.eval()(*rows.values())
        answers = given if isinstance(given, tuple) else (given,)
        np.savez(
            HERE / f"{name}.npz",
            **{key: value.numpy() for key, value in rows.items()},
            **{key: value.numpy() for key, value in zip(source.outputs, answers, strict=True)},
        )
        print(
            f"{name}: {parity.rows} rows, largest difference {parity.max_absolute_error:.3g}, "
            f"{parity.labels_compared} labels, torch {torch.__version__}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
