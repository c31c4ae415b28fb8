// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// callLimit is how long a call may take; it ends as an error then.
const callLimit = 30 * time.Second

// raw sends bytes as they are and hands them back so: the client decodes nothing.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	to := message.(*[]byte)
	n := data.Len()
	if cap(*to) < n {
		*to = make([]byte, n)
	}
	*to = (*to)[:n]
	data.CopyTo(*to)
	return nil
}

// GRPC makes callers of a unary method, over as many connections: as many as clients would share in a real deployment.
func GRPC(address, method string, request []byte, check func([]byte) error, callers, connections int) ([]Caller, error) {
	var clients []*grpc.ClientConn
	for i := range connections {
		client, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20)),
			grpc.WithUserAgent(fmt.Sprint("load-", i)), grpc.WithDisableServiceConfig())
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	made := make([]Caller, callers)
	for i := range made {
		client := clients[i%connections]
		var reply []byte
		made[i] = func(look bool) error {
			ctx, cancel := context.WithTimeout(context.Background(), callLimit)
			defer cancel()
			if err := client.Invoke(ctx, method, &request, &reply); err != nil {
				return err
			}
			if look {
				return check(reply)
			}
			return nil
		}
	}
	return made, nil
}

// Connections is how many connections so many callers share unless told otherwise.
func Connections(callers int) int {
	switch {
	case callers >= 256:
		return 8
	case callers >= 64:
		return 4
	case callers >= 16:
		return 2
	}
	return 1
}
