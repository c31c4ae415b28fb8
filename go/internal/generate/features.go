// SPDX-License-Identifier: Apache-2.0

package generate

import inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"

// Features are what every text generator takes, as the catalog shows them.
func Features() []*inferencev1.Feature {
	text := func(name, description string) *inferencev1.Feature {
		return &inferencev1.Feature{
			Name: name, Type: inferencev1.FeatureType_FEATURE_TYPE_STRING, Description: description,
			DefaultValue: &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{}},
		}
	}
	return []*inferencev1.Feature{
		text("prompt", "What the user says. Either this or messages is given."),
		text("messages", `A conversation: a JSON list of {"role": ..., "content": ...}, both texts.`),
		{
			Name: "raw", Type: inferencev1.FeatureType_FEATURE_TYPE_BOOL,
			Description:  "Whether prompt is the very text that is continued, without the model's chat template.",
			DefaultValue: &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{}},
		},
		text("system", "A system message to begin the conversation with."),
	}
}

// Names of the outputs.
const (
	TextOutput = "text"
	IDsOutput  = "token_ids"
)

// Outputs are what every text generator gives, as the catalog shows them.
func Outputs() []*inferencev1.Output {
	return []*inferencev1.Output{
		{Name: TextOutput, Type: inferencev1.FeatureType_FEATURE_TYPE_STRING, Description: "The text that was generated."},
		{Name: IDsOutput, Type: inferencev1.FeatureType_FEATURE_TYPE_INT64, Shape: []int64{-1}, Description: "The ids of its tokens."},
	}
}
