// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// collectPercent is how much the Go heap grows between two collections, in percent of what is live. What is live is little, since models are in
	// ONNX Runtime's memory, which Go does not count; so garbage is cheap to keep and collecting it often is not.
	collectPercent = 400
	// goShare is the part of the memory that Go may use, 1/goShare, before it collects more often than that: the rest is for ONNX Runtime.
	goShare = 2
)

// setCollector sets up the garbage collector, except for what the variables GOGC and GOMEMLIMIT say.
func setCollector(getenv func(string) string, root fs.FS) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(collectPercent)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(goLimit(memory(root)))
	}
}

// goLimit is Go's soft limit, in bytes, where the process may use so much, 0 where that is not known: then there is no limit.
func goLimit(memory int64) int64 {
	if memory <= 0 {
		return math.MaxInt64
	}
	return memory / goShare
}

// memory is how many bytes this process may use: the machine's, or the least limit of the control groups that it is in. It is 0 where nothing says.
func memory(root fs.FS) int64 {
	least := int64(0)
	atMost := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	for line := range lines(root, "proc/meminfo") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" && fields[2] == "kB" {
			atMost(number(fields[1]) << 10)
		}
	}
	for line := range lines(root, "proc/self/cgroup") {
		// "0::/path" is version 2, "7:cpu,memory:/path" version 1.
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		at, file := "sys/fs/cgroup", "memory.max"
		if parts[0] != "0" || parts[1] != "" {
			if !hasController(parts[1], "memory") {
				continue
			}
			at, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		// A group is under the limits of those above it as well. In a container the path may be the host's, and only the root be there.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			for text := range lines(root, path.Join(at, group, file)) {
				atMost(number(text)) // "max" is none
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}

func hasController(list, name string) bool {
	for each := range strings.SplitSeq(list, ",") {
		if each == name {
			return true
		}
	}
	return false
}

// lines are the lines of a file; none where it cannot be read.
func lines(root fs.FS, name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return
		}
		for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
			if !yield(scanner.Text()) {
				return
			}
		}
	}
}

// number is a positive number of bytes or kilobytes, 0 where the text is none.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 53)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
