# SPDX-License-Identifier: Apache-2.0
"""What an operator sees: logs, metrics, traces, a profile. Never the content of a request.

Calls      every call begins and ends here: counted, logged where sampled, traced where that is asked for
Record     what a handler tells of its call
Counts     plain numbers, all of one event loop
metrics    their names, for scrapers; imported where they are served
Traces     spans, to an OTLP receiver
Profile    stacks of all threads, sampled
"""

from __future__ import annotations

from concord_server.telemetry.calls import Calls, Generated, Method, Record
from concord_server.telemetry.counts import Counts
from concord_server.telemetry.log import Log, log, start
from concord_server.telemetry.profile import Profile
from concord_server.telemetry.traces import traces

__all__ = ["Calls", "Counts", "Generated", "Log", "Method", "Profile", "Record", "log", "start", "traces"]
