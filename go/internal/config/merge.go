// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"
)

const maxFileBytes = 1 << 20

// usage is the help of each field that works here: what its value is, and what it does. A field of the contract that is not in it does
// not work yet, so it is no flag and unknown in a file.
var usage = map[protoreflect.Name][2]string{
	"models":                 {"DIR", "the model repository; required"},
	"listen":                 {"HOST:PORT", "the gRPC listener; port 0 picks a free one (default " + defaultListen + ")"},
	"http":                   {"HOST:PORT|off", "the HTTP listener of /healthz and /readyz (default " + defaultHTTP + ")"},
	"tls_cert":               {"FILE", "PEM certificate chain of the server; with --tls-key"},
	"tls_key":                {"FILE", "PEM private key of --tls-cert"},
	"tls_client_ca":          {"FILE", "PEM authorities; clients must show a certificate of one of them"},
	"plaintext":              {"", "allow plaintext gRPC on an address that is not loopback"},
	"require_manifest":       {"", "refuse model versions without a manifest"},
	"reflection":             {"", "serve gRPC reflection (default: only on loopback)"},
	"max_message_bytes":      {"N", "largest message received and sent, 1024 to 2147483647 (default 104857600)"},
	"max_batch_requests":     {"N", "most requests in one BatchPredict (default 10000)"},
	"drain_delay_ms":         {"N", "at SIGTERM: time between health NOT_SERVING and GOAWAY (default 0)"},
	"drain_grace_ms":         {"N", "at SIGTERM: time for work in flight after GOAWAY (default 30000)"},
	"intra_op_threads":       {"N", "threads within one operator (default 1)"},
	"onnxruntime":            {"FILE", "libonnxruntime (default: beside this binary)"},
	"admin_listen":           {"HOST:PORT|off", "the admin gRPC listener, loopback only: load, unload, label (default off)"},
	"staging":                {"DIR", "where LoadModel takes packages from: DIR/MODEL/VERSION"},
	"repository_poll_ms":     {"N", "how often the repository is looked at for changes, 0 never (default 1000)"},
	"allow_integer_division": {"", "admit graphs that divide integers by what an input can make 0 or -1: that can stop the process"},
	"admission_cache":        {"DIR|off", "where verdicts of trial loads are kept (default ~/.cache/concord)"},
	"admission_timeout_ms":   {"N", "longest trial load of one version (default 60000)"},
	"admission_memory_bytes": {"N", "largest address space of a trial load, at least 268435456 (default 17179869184)"},
}

// fields are the fields that work here, in the contract's order.
func fields() []protoreflect.FieldDescriptor {
	all := (&serverconfigv1.ServerConfig{}).ProtoReflect().Descriptor().Fields()
	var list []protoreflect.FieldDescriptor
	for i := range all.Len() {
		if _, ok := usage[all.Get(i).Name()]; ok {
			list = append(list, all.Get(i))
		}
	}
	return list
}

func flagName(field protoreflect.FieldDescriptor) string {
	return strings.ReplaceAll(string(field.Name()), "_", "-")
}

// text is a flag's value as it was written.
type text struct {
	value, kind string
	given       bool
}

func (t *text) String() string         { return t.value }
func (t *text) Type() string           { return t.kind }
func (t *text) Set(value string) error { t.value, t.given = value, true; return nil }

// flags are the flags of all fields, --config, --help and --version.
type flags struct {
	set           *pflag.FlagSet
	values        map[protoreflect.Name]*text
	config        *text
	help, version *bool
}

func newFlags() flags {
	f := flags{set: pflag.NewFlagSet("inference-server", pflag.ContinueOnError), values: map[protoreflect.Name]*text{}}
	f.set.SortFlags = false
	f.set.SetOutput(io.Discard)
	for _, field := range fields() {
		help := usage[field.Name()]
		value := &text{kind: help[0]}
		f.values[field.Name()] = value
		flag := f.set.VarPF(value, flagName(field), "", help[1])
		if field.Kind() == protoreflect.BoolKind {
			flag.NoOptDefVal = "true"
		}
	}
	f.config = &text{kind: "FILE"}
	f.set.Var(f.config, "config", "the same fields in YAML or JSON, with \"_\" for \"-\"; a flag wins")
	f.help = f.set.BoolP("help", "h", false, "print this and exit")
	f.version = f.set.Bool("version", false, "print the version and exit")
	return f
}

// Usage is the text of --help.
func Usage() string {
	return "Usage: inference-server --models DIR [flags]\n\nServes the models of a repository over gRPC.\n\n" + newFlags().set.FlagUsages()
}

// merge reads the flags over the file.
func merge(args []string) (*serverconfigv1.ServerConfig, error) {
	f := newFlags()
	if err := f.set.Parse(args); err != nil {
		return nil, errors.New(oneLine(err.Error()))
	}
	switch {
	case *f.help:
		return nil, ErrHelp
	case *f.version:
		return nil, ErrVersion
	case f.set.NArg() > 0:
		return nil, fmt.Errorf("expected flags only, got %q", f.set.Arg(0))
	}
	message := &serverconfigv1.ServerConfig{}
	if f.config.given {
		if err := readFile(f.config.value, message.ProtoReflect()); err != nil {
			return nil, fmt.Errorf("config %q: %w", f.config.value, err)
		}
	}
	for _, field := range fields() {
		given := f.values[field.Name()]
		if !given.given {
			continue
		}
		value, err := parse(field, given.value)
		if err != nil {
			return nil, err
		}
		message.ProtoReflect().Set(field, value)
	}
	return message, nil
}

func readFile(name string, message protoreflect.Message) error {
	file, err := os.Open(name)
	if err != nil {
		return errors.New("expected a file that can be read, got none")
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil || len(data) > maxFileBytes {
		return fmt.Errorf("expected a file of at most %d bytes that can be read", maxFileBytes)
	}
	data, err = yaml.YAMLToJSONStrict(data)
	if err != nil {
		return fmt.Errorf("expected YAML or JSON: %s", oneLine(err.Error()))
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return errors.New("expected fields and their values")
	}
	for _, field := range fields() {
		raw, given := object[string(field.Name())]
		delete(object, string(field.Name()))
		if camel, twice := object[field.JSONName()]; twice && field.JSONName() != string(field.Name()) {
			if given {
				return fmt.Errorf("%s: expected once, got %s as well", field.Name(), field.JSONName())
			}
			raw, given = camel, true
			delete(object, field.JSONName())
		}
		if !given || string(raw) == "null" {
			continue
		}
		written, err := literal(field, raw)
		if err != nil {
			return err
		}
		value, err := parse(field, written)
		if err != nil {
			return err
		}
		message.Set(field, value)
	}
	for name := range object {
		return fmt.Errorf("%q: there is no such field", name)
	}
	return nil
}

// literal is the text of a JSON value that is of the field's type.
func literal(field protoreflect.FieldDescriptor, raw json.RawMessage) (string, error) {
	raw = bytes.TrimSpace(raw)
	var written string
	isText := json.Unmarshal(raw, &written) == nil
	switch field.Kind() {
	case protoreflect.StringKind:
		if string(raw) == "false" && strings.HasSuffix(usage[field.Name()][0], "|"+off) {
			return off, nil // YAML reads a bare off as false.
		}
		if isText {
			return written, nil
		}
		return "", fmt.Errorf("%s: expected a text, got %s", field.Name(), short(string(raw)))
	case protoreflect.BoolKind:
		if isText {
			return "", fmt.Errorf("%s: expected true or false, got %s", field.Name(), short(string(raw)))
		}
	default:
		if isText {
			return written, nil // proto JSON writes 64-bit integers so.
		}
	}
	return string(raw), nil
}

// parse reads a value of the field's type from its text.
func parse(field protoreflect.FieldDescriptor, written string) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(written), nil
	case protoreflect.BoolKind:
		if written == "true" || written == "false" {
			return protoreflect.ValueOfBool(written == "true"), nil
		}
		return protoreflect.Value{}, fmt.Errorf("%s: expected true or false, got %s", field.Name(), short(strconv.Quote(written)))
	default:
		n, err := strconv.ParseInt(written, 10, 64)
		if err != nil {
			// A whole number may be written as 1e3.
			x, bad := strconv.ParseFloat(written, 64)
			if bad != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
				return protoreflect.Value{}, fmt.Errorf("%s: expected an integer, got %s", field.Name(), short(strconv.Quote(written)))
			}
			n = int64(x)
		}
		if field.Kind() == protoreflect.Int64Kind {
			return protoreflect.ValueOfInt64(n), nil
		}
		if n < math.MinInt32 || n > math.MaxInt32 {
			return protoreflect.Value{}, fmt.Errorf("%s: expected an integer of 32 bits, got %d", field.Name(), n)
		}
		return protoreflect.ValueOfInt32(int32(n)), nil
	}
}

func oneLine(message string) string { return strings.Join(strings.Fields(message), " ") }

func short(message string) string {
	const most = 80
	if len(message) > most {
		return message[:most] + "..."
	}
	return message
}
