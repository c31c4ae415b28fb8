// SPDX-License-Identifier: Apache-2.0

package admission

import "github.com/concord-inference/concord/go/gen/onnx"

// contribOperators are the operators of ONNX Runtime's own domain, com.microsoft, that exporters and quantizers in use write.
var contribOperators = names(
	"Attention", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
	"EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GatherBlockQuantized",
	"Gelu", "GreedySearch", "GroupQueryAttention", "MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits",
	"MultiHeadAttention", "NGramRepeatBlock", "NhwcMaxPool", "PackedAttention", "QAttention", "QEmbedLayerNormalization", "QGemm",
	"QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean",
	"QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QMoE", "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
	"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Tokenizer", "Trilu", "Unique", "WordConvEmbedding",
)

// generatorOperators are those of them that are admitted in text generators alone: they write into memory that they are given, as far as their
// inputs say, and there the inputs are the server's own.
var generatorOperators = names("GroupQueryAttention")

func names(list ...string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, n := range list {
		m[n] = true
	}
	return m
}

// Which element type an operator's outputs have. What is in none of these has the type of its first input.
var (
	givesInt64 = names("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "StringSplit.2", "TopK.1", "Unique.1", "Unique.2", "Unique.3")
	givesBool  = names("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Not", "Xor", "IsNaN", "IsInf", "RegexFullMatch")
	givesInt32 = names("MatMulInteger", "ConvInteger")
	givesFloat = names("DynamicQuantizeLinear.1", "Scaler", "Normalizer", "LinearClassifier.1", "LinearRegressor", "SVMClassifier.1",
		"SVMRegressor", "TreeEnsembleClassifier.1", "TreeEnsembleRegressor", "OneHotEncoder", "FeatureVectorizer", "TfIdfVectorizer",
		"MelWeightMatrix")
	givesUint8   = names("DynamicQuantizeLinear.0", "DynamicQuantizeLinear.2")
	givesUnknown = names("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence",
		"ConcatFromSequence", "Optional", "OptionalGetElement", "LabelEncoder", "CategoryMapper", "DictVectorizer", "CastMap", "ZipMap",
		"LinearClassifier.0", "SVMClassifier.0", "TreeEnsembleClassifier.0", "StringSplit.0", "ImageDecoder")
	// givesInput is the input whose type the outputs have, where it is not the first.
	givesInput = map[string]int{"Where": 1, "OneHot": 2, "CastLike": 1, "DequantizeLinear": 1, "QuantizeLinear": 2, "QLinearConv": 7,
		"QLinearMatMul": 7}
	// typeAttribute is the attribute that names the output type; absent, the type is absentType's, or else the first input's.
	typeAttribute = map[string]string{"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype",
		"RandomNormalLike": "dtype", "RandomUniformLike": "dtype", "Bernoulli": "dtype", "Multinomial": "dtype", "HannWindow": "output_datatype",
		"HammingWindow": "output_datatype", "BlackmanWindow": "output_datatype"}
	absentType = map[string]int32{"RandomNormal": float, "RandomUniform": float, "Multinomial": int32T, "HannWindow": float,
		"HammingWindow": float, "BlackmanWindow": float}
)

// constantType is the element type of a Constant node.
func constantType(n *onnx.NodeProto) int32 {
	for _, a := range n.GetAttribute() {
		switch a.GetName() {
		case "value":
			return a.GetT().GetDataType()
		case "sparse_value":
			return a.GetSparseTensor().GetValues().GetDataType()
		case "value_float", "value_floats":
			return float
		case "value_int", "value_ints":
			return int64T
		case "value_string", "value_strings":
			return stringT
		}
	}
	return unknown
}
