# SPDX-License-Identifier: Apache-2.0
"""What admission knows of operators."""

from __future__ import annotations

from onnx import TensorProto

# The operators of ONNX Runtime's own domain, com.microsoft, that exporters and quantizers in use write.
CONTRIB_OPERATORS = frozenset(
    """
    Attention BiasGelu BiasSoftmax BiasSplitGelu DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation GatherBlockQuantized
    Gelu GreedySearch GroupQueryAttention MatMulBnb4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MultiHeadAttention NGramRepeatBlock NhwcMaxPool PackedAttention QAttention QEmbedLayerNormalization QGemm
    QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu RotaryEmbedding
    SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization Tokenizer Trilu Unique
    WordConvEmbedding
    """.split()
)

# Of these, the ones that are admitted in text generators alone: they write into memory that they are given, as far as
# their inputs say, and there the inputs are the server's own.
GENERATOR_OPERATORS = frozenset({"GroupQueryAttention"})

# Which element type an operator's outputs have, by "Operator" or "Operator.output". What is in none of these has the
# type of its first input.
_GIVES: dict[int, str] = {
    TensorProto.INT64: "Shape Size NonZero ArgMax ArgMin StringSplit.2 TopK.1 Unique.1 Unique.2 Unique.3",
    TensorProto.BOOL: "Equal Greater Less GreaterOrEqual LessOrEqual And Or Not Xor IsNaN IsInf RegexFullMatch",
    TensorProto.INT32: "MatMulInteger ConvInteger",
    TensorProto.FLOAT: (
        "DynamicQuantizeLinear.1 Scaler Normalizer LinearClassifier.1 LinearRegressor SVMClassifier.1 SVMRegressor"
        " TreeEnsembleClassifier.1 TreeEnsembleRegressor OneHotEncoder FeatureVectorizer TfIdfVectorizer"
        " MelWeightMatrix"
    ),
    TensorProto.UINT8: "DynamicQuantizeLinear.0 DynamicQuantizeLinear.2",
    TensorProto.UNDEFINED: (
        "SequenceAt SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SequenceMap SplitToSequence"
        " ConcatFromSequence Optional OptionalGetElement LabelEncoder CategoryMapper DictVectorizer CastMap ZipMap"
        " LinearClassifier.0 SVMClassifier.0 TreeEnsembleClassifier.0 StringSplit.0 ImageDecoder"
    ),
}
GIVES: dict[str, int] = {name: elem_type for elem_type, names in _GIVES.items() for name in names.split()}
# The input whose type the outputs have, where it is not the first.
GIVES_INPUT = {
    "Where": 1,
    "OneHot": 2,
    "CastLike": 1,
    "DequantizeLinear": 1,
    "QuantizeLinear": 2,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
}
# The attribute that names the output type; absent, the type is ABSENT_TYPE's, or else the first input's.
TYPE_ATTRIBUTE = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype",
    "Bernoulli": "dtype",
    "Multinomial": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
}
ABSENT_TYPE: dict[str, int] = {
    "RandomNormal": TensorProto.FLOAT,
    "RandomUniform": TensorProto.FLOAT,
    "Multinomial": TensorProto.INT32,
    "HannWindow": TensorProto.FLOAT,
    "HammingWindow": TensorProto.FLOAT,
    "BlackmanWindow": TensorProto.FLOAT,
}
