// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"
)

const maxFileBytes = 1 << 20

// modelSettings is the one field that is no flag.
const modelSettings, camelModelSettings = "model_settings", "modelSettings"

// usage is the help of each field that is a flag: what its value is, and what it does.
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
	"device":                 {"cpu|cuda:N", "where models run (default cpu)"},
	"processes":              {"N", "processes that share the gRPC address, 1 to 64; the Go server accepts 1 only (default 1)"},
	"batching":               {"POLICY", "auto, inline, direct or adaptive; auto measures each model at load (default auto)"},
	"max_batch_rows":         {"N", "most rows that requests bring into one execution, 1 to 1024 (default 64)"},
	"max_delay_ms":           {"N", "how long an execution waits for more rows, 0 to 1000 (default 0)"},
	"max_queue_rows":         {"N", "most rows that wait for one version (default 1024)"},
	"executors":              {"N", "executions of one version at once, 1 to 256 (default: chosen with the policy)"},
	"max_request_ms":         {"N", "longest time of one request (default 300000)"},
	"max_connection_age_ms":  {"N", "age at which a gRPC connection is told to go, 0 never (default 1800000)"},
	"max_concurrent_streams": {"N", "most calls at once on one connection (default 1024)"},
	"max_header_bytes":       {"N", "largest headers of a call, at least 4096 (default 65536)"},
	"max_output_bytes":       {"N", "largest outputs of one execution for one request, at least 1024 (default: max_message_bytes)"},
	"request_log_ppm":        {"N", "share of requests that are logged, in parts of a million (default 0)"},
	"fast_decode":            {"", "decode features straight into tensors where they are plainly right; no answer depends on it (default true)"},
	"generation_slots":       {"N", "most generations of one text generator at once, 1 to 64 (default 8)"},
	"max_kv_bytes":           {"N", "most memory of one text generator's keys and values, at least 1048576 (default 1073741824)"},
	"prefill_chunk_tokens":   {"N", "most tokens of a prompt in one execution, 1 to 8192 (default 512)"},
	"onnxruntime_genai":      {"FILE", "ONNX Runtime GenAI's C library, for text generators (default: beside libonnxruntime)"},
}

func modelSettingsField() protoreflect.FieldDescriptor {
	return (&serverconfigv1.ServerConfig{}).ProtoReflect().Descriptor().Fields().ByName(modelSettings)
}

// listed are all fields of a message.
func listed(message protoreflect.MessageDescriptor) (list []protoreflect.FieldDescriptor) {
	for i := range message.Fields().Len() {
		list = append(list, message.Fields().Get(i))
	}
	return list
}

// fields are the fields that are flags, in the contract's order.
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
	object, err := members(data)
	if err != nil {
		return err
	}
	raw, given := object[modelSettings]
	if camel, twice := object[camelModelSettings]; twice {
		if given {
			return fmt.Errorf("%s: expected once, got %s as well", modelSettings, camelModelSettings)
		}
		raw, given = camel, true
	}
	delete(object, modelSettings)
	delete(object, camelModelSettings)
	if given && string(raw) != "null" {
		if err := readModels(raw, message.Mutable(modelSettingsField()).Map()); err != nil {
			return err
		}
	}
	return readFields("", object, fields(), message)
}

// members are the members of a JSON object.
func members(data []byte) (map[string]json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		return nil, errors.New("expected fields and their values")
	}
	return object, nil
}

// readModels reads the settings of single models.
func readModels(raw json.RawMessage, into protoreflect.Map) error {
	models, err := members(raw)
	if err != nil {
		return fmt.Errorf("%s: expected model ids and their settings, got %s", modelSettings, short(string(raw)))
	}
	for _, id := range slices.Sorted(maps.Keys(models)) {
		settings := into.NewValue()
		if raw := models[id]; string(raw) != "null" {
			object, err := members(raw)
			if err != nil {
				return fmt.Errorf("%s.%s: %w, got %s", modelSettings, id, err, short(string(raw)))
			}
			if err := readFields(modelSettings+"."+id, object, listed(settings.Message().Descriptor()), settings.Message()); err != nil {
				return err
			}
		}
		into.Set(protoreflect.ValueOfString(id).MapKey(), settings)
	}
	return nil
}

// readFields reads an object whose members are fields of a message, and removes them. The path is where it is in the file, for errors.
func readFields(path string, object map[string]json.RawMessage, fields []protoreflect.FieldDescriptor, message protoreflect.Message) error {
	dot, colon := "", ""
	if path != "" {
		dot, colon = path+".", path+": "
	}
	for _, field := range fields {
		raw, given := object[string(field.Name())]
		delete(object, string(field.Name()))
		if camel, twice := object[field.JSONName()]; twice && field.JSONName() != string(field.Name()) {
			if given {
				return fmt.Errorf("%s%s: expected once, got %s as well", dot, field.Name(), field.JSONName())
			}
			raw, given = camel, true
			delete(object, field.JSONName())
		}
		if !given || string(raw) == "null" {
			continue
		}
		written, err := literal(field, raw)
		if err != nil {
			return fmt.Errorf("%s%w", dot, err)
		}
		value, err := parse(field, written)
		if err != nil {
			return fmt.Errorf("%s%w", dot, err)
		}
		message.Set(field, value)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		return fmt.Errorf("%s%q: there is no such field", colon, name)
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
