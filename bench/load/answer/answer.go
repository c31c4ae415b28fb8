// SPDX-License-Identifier: Apache-2.0

// Package answer reads the numbers out of servers' answers, whatever their form, and compares them with the expected ones.
package answer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Tolerance is how far a number may be from the expected one: joined rows may differ in the last bits.
const Tolerance = 1e-5

// Expected is what a right answer holds, class by class.
type Expected struct {
	Classes []string  `json:"classes"`
	Values  []float64 `json:"answer"`
	Output  string    `json:"output"` // the tensor's name, for answers of tensors
}

// Reader gives the numbers of an answer in the order of the classes.
type Reader func(body []byte, expected *Expected) ([]float64, error)

// Readers by the names that the command line takes. "any" looks at nothing.
var Readers = map[string]Reader{
	"concord": concord,
	"json":    plainJSON,
	"v2json":  v2JSON,
	"v2grpc":  v2GRPC,
	"any":     func(_ []byte, e *Expected) ([]float64, error) { return e.Values, nil },
}

// Check reads an answer and says what is wrong with it.
func (e *Expected) Check(read Reader, body []byte) error {
	got, err := read(body, e)
	if err != nil {
		return err
	}
	if len(got) != len(e.Values) {
		return fmt.Errorf("expected %d numbers, got %d", len(e.Values), len(got))
	}
	for i, want := range e.Values {
		if !(math.Abs(got[i]-want) <= Tolerance) {
			return fmt.Errorf("%s: expected %v, got %v", e.Classes[i], want, got[i])
		}
	}
	return nil
}

var errWire = errors.New("expected a protobuf message, got something else")

// fields calls f with every field that has a length, and its bytes; others are passed over.
func fields(message []byte, f func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errWire
		}
		message = message[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(message)
			if n < 0 {
				return errWire
			}
			if err := f(number, value); err != nil {
				return err
			}
			message = message[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return errWire
		}
		message = message[n:]
	}
	return nil
}

// concord reads predictions, field 2 of inference.v1.PredictResponse.
func concord(body []byte, expected *Expected) ([]float64, error) {
	found := map[string]float64{}
	err := fields(body, func(number protowire.Number, entry []byte) error {
		if number != 2 {
			return nil
		}
		return fields(entry, func(n protowire.Number, key []byte) error {
			if n == 1 && len(entry) >= 4 { // an entry ends with its value
				found[string(key)] = float64(math.Float32frombits(binary.LittleEndian.Uint32(entry[len(entry)-4:])))
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return ordered(found, expected)
}

func plainJSON(body []byte, expected *Expected) ([]float64, error) {
	var message struct {
		Predictions map[string]float64 `json:"predictions"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return nil, err
	}
	return ordered(message.Predictions, expected)
}

func v2JSON(body []byte, expected *Expected) ([]float64, error) {
	var message struct {
		Outputs []struct {
			Name string          `json:"name"`
			Data json.RawMessage `json:"data"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return nil, err
	}
	for _, output := range message.Outputs {
		if output.Name == expected.Output {
			var data []float64
			err := json.Unmarshal(output.Data, &data)
			return data, err
		}
	}
	return nil, fmt.Errorf("expected an output %q, got none", expected.Output)
}

// v2GRPC reads the first output of inference.ModelInferResponse: raw, or as fp32_contents.
func v2GRPC(body []byte, _ *Expected) ([]float64, error) {
	var numbers []float64
	floats := func(raw []byte) {
		for ; len(raw) >= 4; raw = raw[4:] {
			numbers = append(numbers, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))))
		}
	}
	err := fields(body, func(number protowire.Number, value []byte) error {
		switch number {
		case 6: // raw_output_contents
			if len(numbers) == 0 {
				floats(value)
			}
		case 5: // outputs
			return fields(value, func(n protowire.Number, contents []byte) error {
				if n != 5 {
					return nil
				}
				return fields(contents, func(n protowire.Number, packed []byte) error {
					if n == 6 {
						floats(packed)
					}
					return nil
				})
			})
		}
		return nil
	})
	return numbers, err
}

func ordered(found map[string]float64, expected *Expected) ([]float64, error) {
	values := make([]float64, len(expected.Classes))
	for i, class := range expected.Classes {
		value, ok := found[class]
		if !ok {
			return nil, fmt.Errorf("expected a prediction %q, got none", class)
		}
		values[i] = value
	}
	return values, nil
}
