// SPDX-License-Identifier: Apache-2.0

// Package process tells what a server and all its descendants used, from /proc.
package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Group is a process and its descendants, as they were when it was made.
type Group []int

// Of finds the descendants of a process. Pid 0 has none and uses nothing.
func Of(pid int) Group {
	if pid == 0 {
		return nil
	}
	children := map[int][]int{}
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if id, parent, _, err := parse(string(text)); err == nil {
			children[parent] = append(children[parent], id)
		}
	}
	group := Group{pid}
	for i := 0; i < len(group); i++ {
		group = append(group, children[group[i]]...)
	}
	return group
}

// CPUSeconds is the time in user and system mode that the processes used so far, in steps of 10 ms each.
func (g Group) CPUSeconds() float64 {
	ticks := 0
	for _, pid := range g {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		if _, _, used, err := parse(string(text)); err == nil {
			ticks += used
		}
	}
	return float64(ticks) / 100 // the kernel tells ticks of 1/100 s whatever its own are
}

// RSSMegabytes adds up the resident memory; what several processes share counts in each.
func (g Group) RSSMegabytes() float64 { return g.kilobytes("status", "VmRSS:") / 1024 }

// PSSMegabytes adds up the proportional memory: what is shared counts once.
func (g Group) PSSMegabytes() float64 { return g.kilobytes("smaps_rollup", "Pss:") / 1024 }

func (g Group) kilobytes(file, key string) float64 {
	sum := 0.0
	for _, pid := range g {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				sum += n
			}
		}
	}
	return sum
}

// MachineCPUSeconds is what all processes of the machine used so far.
func MachineCPUSeconds() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return machine(line)
}

// machine adds up the first line of /proc/stat, without idle, iowait, and guests, whose time is in user already.
func machine(line string) float64 {
	sum := 0.0
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, _ := strconv.ParseFloat(field, 64)
		sum += n
	}
	return sum / 100
}

// parse reads a line of /proc/<pid>/stat: the id, the parent's, user and system time in ticks. The name may hold blanks and brackets.
func parse(stat string) (pid, parent, ticks int, err error) {
	end := strings.LastIndexByte(stat, ')')
	begin := strings.IndexByte(stat, ' ')
	if begin < 0 || end < 0 {
		return 0, 0, 0, fmt.Errorf("expected a line of stat, got %q", stat)
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 13 {
		return 0, 0, 0, fmt.Errorf("expected at least 13 fields after the name, got %d", len(fields))
	}
	numbers := [4]int{}
	for i, text := range []string{stat[:begin], fields[1], fields[11], fields[12]} {
		if numbers[i], err = strconv.Atoi(text); err != nil {
			return 0, 0, 0, err
		}
	}
	return numbers[0], numbers[1], numbers[2] + numbers[3], nil
}
