# SPDX-License-Identifier: Apache-2.0
"""A version of a model that is ready to run, the Session it runs on, and what a request must say to name it."""

from __future__ import annotations

from concord_server.model.generation import check_config
from concord_server.model.inputs import decode_tensors
from concord_server.model.measured import Measured
from concord_server.model.model import OWN_MAX_ROWS, Model, answer_too_large, execution_failed, kind_text
from concord_server.model.name import check_id, check_name, is_id, is_label, is_version, version_order
from concord_server.model.session import Call, NoTensors, OutputTooLargeError, Session, SessionError

__all__ = [
    "OWN_MAX_ROWS",
    "Call",
    "Measured",
    "Model",
    "NoTensors",
    "OutputTooLargeError",
    "Session",
    "SessionError",
    "answer_too_large",
    "check_config",
    "check_id",
    "check_name",
    "decode_tensors",
    "execution_failed",
    "is_id",
    "is_label",
    "is_version",
    "kind_text",
    "version_order",
]
