# SPDX-License-Identifier: Apache-2.0
"""Which ONNX graphs may be loaded: what they may use, how large they may grow, what could bring the process down.

The rules, with their reasons, are in docs/admission.md; the Go server follows the same ones and refuses with the same
words. Judging imports the `onnx` package and takes the time that a hostile graph makes it take, so it is done in a
child process, which then loads the graph once on trial.
"""

from __future__ import annotations

from concord_server.admission.admission import Admission
from concord_server.admission.refused import AdmissionError
from concord_server.admission.trial import Limits, Trials
from concord_server.admission.verdicts import Verdicts

__all__ = ["Admission", "AdmissionError", "Limits", "Trials", "Verdicts"]
