from concord_proto.inference.v1 import inference_service_pb2 as _inference_service_pb2
from concord_proto.inference.v1 import model_inference_pb2 as _model_inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GoldenSet(_message.Message):
    __slots__ = ("cases", "absolute_tolerance", "relative_tolerance")
    CASES_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    cases: _containers.RepeatedCompositeFieldContainer[GoldenCase]
    absolute_tolerance: float
    relative_tolerance: float
    def __init__(self, cases: _Optional[_Iterable[_Union[GoldenCase, _Mapping]]] = ..., absolute_tolerance: _Optional[float] = ..., relative_tolerance: _Optional[float] = ...) -> None: ...

class GoldenCase(_message.Message):
    __slots__ = ("features", "tensors", "predictions", "outputs")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    features: _inference_service_pb2.PredictRequest
    tensors: _model_inference_pb2.PredictionRequest
    predictions: _inference_service_pb2.PredictResponse
    outputs: _model_inference_pb2.PredictionResponse
    def __init__(self, features: _Optional[_Union[_inference_service_pb2.PredictRequest, _Mapping]] = ..., tensors: _Optional[_Union[_model_inference_pb2.PredictionRequest, _Mapping]] = ..., predictions: _Optional[_Union[_inference_service_pb2.PredictResponse, _Mapping]] = ..., outputs: _Optional[_Union[_model_inference_pb2.PredictionResponse, _Mapping]] = ...) -> None: ...
