// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemory(t *testing.T) {
	meminfo := "MemFree:  5 kB\nMemTotal:       24000000 kB\n"
	const machine = 24000000 << 10
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing":      {nil, 0},
		"a machine":    {map[string]string{"proc/meminfo": meminfo}, machine},
		"no limit":     {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, machine},
		"a container":  {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20},
		"its own":      {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.max": "9000\n"}, 9000},
		"one above":    {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "8000\n", "sys/fs/cgroup/a/b/memory.max": "9000\n"}, 8000},
		"host's path":  {map[string]string{"proc/self/cgroup": "0::/host/x\n", "sys/fs/cgroup/memory.max": "7000\n"}, 7000},
		"version 1":    {map[string]string{"proc/self/cgroup": "9:cpu,memory:/a\n3:cpuset:/z\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "6000\n"}, 6000},
		"v1, no limit": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "9:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, machine},
		"outside":      {map[string]string{"proc/self/cgroup": "0::/../..\nx\n", "sys/fs/cgroup/memory.max": "7000\n"}, 7000},
	} {
		root := fstest.MapFS{}
		for file, text := range c.files {
			root[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memory(root); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestCollector(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) })
	root := fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: 4194304 kB\n")}}
	for _, c := range []struct {
		env     map[string]string
		root    fstest.MapFS
		percent int
		limit   int64
	}{
		{nil, root, 400, 2 << 30},
		{nil, fstest.MapFS{}, 400, math.MaxInt64},
		{map[string]string{"GOGC": "50"}, root, 77, 2 << 30},
		{map[string]string{"GOMEMLIMIT": "1GiB"}, root, 400, 5 << 30},
		{map[string]string{"GOGC": "off", "GOMEMLIMIT": "off"}, root, 77, 5 << 30},
	} {
		debug.SetGCPercent(77)
		debug.SetMemoryLimit(5 << 30)
		setCollector(func(name string) string { return c.env[name] }, c.root)
		if got := debug.SetGCPercent(77); got != c.percent {
			t.Errorf("%v: got a percent of %d, want %d", c.env, got, c.percent)
		}
		if got := debug.SetMemoryLimit(-1); got != c.limit {
			t.Errorf("%v: got a limit of %d, want %d", c.env, got, c.limit)
		}
	}
}
