// SPDX-License-Identifier: Apache-2.0

package config

import (
	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// live are the fields that a running server takes over.
var live = map[protoreflect.Name]bool{
	"max_batch_requests": true, "drain_delay_ms": true, "drain_grace_ms": true, "repository_poll_ms": true, "batching": true, "max_batch_rows": true,
	"max_delay_ms": true, "max_queue_rows": true, "executors": true, "max_request_ms": true, "max_output_bytes": true, "request_log_ppm": true,
	modelSettings: true,
}

// File is the configuration file that the arguments name, or nothing. The arguments have been parsed before.
func File(args []string) string {
	f := newFlags()
	if f.set.Parse(args) != nil {
		return ""
	}
	return f.config.value
}

// Change is what a configuration read again brings.
type Change struct {
	Config  Config   // what runs, with the fields of the new one that a running server takes over
	Applied []string // the fields among them that are others than before
	Restart []string // the fields that are others than what runs, and stay so until a restart
}

// Reread parses the arguments again, with the file as it is now. An error is one line for the user, and says that nothing changes.
func Reread(args []string, running Config) (Change, error) {
	written, err := merge(args)
	if err != nil {
		return Change{}, err
	}
	if _, err := check(written); err != nil {
		return Change{}, err
	}
	var change Change
	next := proto.Clone(running.written).(*serverconfigv1.ServerConfig)
	is, was := written.ProtoReflect(), next.ProtoReflect()
	all := is.Descriptor().Fields()
	for i := range all.Len() {
		field := all.Get(i)
		switch {
		case is.Has(field) == was.Has(field) && is.Get(field).Equal(was.Get(field)):
		case !live[field.Name()]:
			change.Restart = append(change.Restart, string(field.Name()))
		default:
			change.Applied = append(change.Applied, string(field.Name()))
			if is.Has(field) {
				was.Set(field, is.Get(field))
			} else {
				was.Clear(field)
			}
		}
	}
	change.Config, err = check(next)
	return change, err
}
