import datetime

from concord_proto.conformance.v1 import suite_pb2 as _suite_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    TRANSPORT_PLAINTEXT: _ClassVar[Transport]
    TRANSPORT_TLS: _ClassVar[Transport]
    TRANSPORT_MTLS: _ClassVar[Transport]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_PASSED: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
    OUTCOME_SKIPPED: _ClassVar[Outcome]
    OUTCOME_KNOWN_FAILURE: _ClassVar[Outcome]
    OUTCOME_UNEXPECTED_PASS: _ClassVar[Outcome]
TRANSPORT_UNSPECIFIED: Transport
TRANSPORT_PLAINTEXT: Transport
TRANSPORT_TLS: Transport
TRANSPORT_MTLS: Transport
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_PASSED: Outcome
OUTCOME_FAILED: Outcome
OUTCOME_SKIPPED: Outcome
OUTCOME_KNOWN_FAILURE: Outcome
OUTCOME_UNEXPECTED_PASS: Outcome

class Report(_message.Message):
    __slots__ = ("suite_version", "server", "transport", "start_time", "duration_ms", "results", "problems", "summary", "passed", "enforced_level")
    SUITE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_LEVEL_FIELD_NUMBER: _ClassVar[int]
    suite_version: str
    server: str
    transport: Transport
    start_time: _timestamp_pb2.Timestamp
    duration_ms: int
    results: _containers.RepeatedCompositeFieldContainer[CaseResult]
    problems: _containers.RepeatedScalarFieldContainer[str]
    summary: Summary
    passed: bool
    enforced_level: _suite_pb2.Level
    def __init__(self, suite_version: _Optional[str] = ..., server: _Optional[str] = ..., transport: _Optional[_Union[Transport, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration_ms: _Optional[int] = ..., results: _Optional[_Iterable[_Union[CaseResult, _Mapping]]] = ..., problems: _Optional[_Iterable[str]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ..., passed: _Optional[bool] = ..., enforced_level: _Optional[_Union[_suite_pb2.Level, str]] = ...) -> None: ...

class CaseResult(_message.Message):
    __slots__ = ("id", "profile", "level", "description", "outcome", "problems", "explanation", "duration_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    profile: str
    level: _suite_pb2.Level
    description: str
    outcome: Outcome
    problems: _containers.RepeatedScalarFieldContainer[str]
    explanation: str
    duration_ms: float
    def __init__(self, id: _Optional[str] = ..., profile: _Optional[str] = ..., level: _Optional[_Union[_suite_pb2.Level, str]] = ..., description: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., problems: _Optional[_Iterable[str]] = ..., explanation: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("passed_count", "failed_count", "skipped_count", "known_failure_count", "unexpected_pass_count")
    PASSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FAILURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNEXPECTED_PASS_COUNT_FIELD_NUMBER: _ClassVar[int]
    passed_count: int
    failed_count: int
    skipped_count: int
    known_failure_count: int
    unexpected_pass_count: int
    def __init__(self, passed_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., skipped_count: _Optional[int] = ..., known_failure_count: _Optional[int] = ..., unexpected_pass_count: _Optional[int] = ...) -> None: ...
