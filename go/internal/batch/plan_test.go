// SPDX-License-Identifier: Apache-2.0

package batch_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/batch"
)

const scripts = "../../../conformance/batch/*.txt"

// script is a queue that a script fills and asks.
type script struct {
	limits batch.Limits
	queue  []*batch.Waiting
	names  []string
}

var epoch = time.Unix(1e9, 0)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return epoch.Add(time.Duration(n) * time.Millisecond)
}

// do does one command and gives what it prints.
func (s *script) do(t *testing.T, line string) string {
	t.Helper()
	words := strings.Fields(line)
	settings := map[string]string{}
	id := ""
	for _, word := range words[1:] {
		if name, value, ok := strings.Cut(word, "="); ok {
			settings[name] = value
		} else {
			id = word
		}
	}
	switch words[0] {
	case "limits":
		rows, err := strconv.Atoi(settings["max_rows"])
		if err != nil {
			t.Fatal(err)
		}
		s.limits = batch.Limits{MaxRows: rows, MaxDelay: at(t, settings["max_delay_ms"]).Sub(epoch)}
	case "add":
		w := &batch.Waiting{Rows: 1, Shape: "a", Since: at(t, settings["at"])}
		if rows, ok := settings["rows"]; ok {
			w.Rows = int(at(t, rows).Sub(epoch) / time.Millisecond)
		}
		if shape, ok := settings["shape"]; ok {
			w.Shape = shape
		}
		if deadline, ok := settings["deadline"]; ok {
			w.Deadline = at(t, deadline)
		}
		s.queue, s.names = append(s.queue, w), append(s.names, id)
	case "cancel":
		for i, name := range s.names {
			if name == id {
				s.queue[i].Gone = true
			}
		}
	case "plan":
		return s.plan(at(t, settings["at"]))
	default:
		t.Fatalf("unknown command %q", line)
	}
	return ""
}

func (s *script) plan(now time.Time) string {
	d := batch.Plan(s.queue, now, s.limits)
	var printed strings.Builder
	leaves := map[int]bool{}
	for _, drop := range d.Drops {
		why := "deadline"
		if drop.Cancelled {
			why = "cancelled"
		}
		fmt.Fprintf(&printed, "drop %s %s\n", s.names[drop.Index], why)
		leaves[drop.Index] = true
	}
	switch {
	case len(d.Run) > 0:
		printed.WriteString("run")
		for _, i := range d.Run {
			printed.WriteString(" " + s.names[i])
			leaves[i] = true
		}
		printed.WriteString("\n")
	case d.Wait.IsZero():
		printed.WriteString("idle\n")
	default:
		fmt.Fprintf(&printed, "wait %d\n", d.Wait.Sub(epoch).Milliseconds())
	}
	var queue []*batch.Waiting
	var names []string
	for i, w := range s.queue {
		if !leaves[i] {
			queue, names = append(queue, w), append(names, s.names[i])
		}
	}
	s.queue, s.names = queue, names
	return printed.String()
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob(scripts)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{}
			printed, asked, expecting := "", 0, false
			var want strings.Builder
			for n, line := range append(strings.Split(string(data), "\n"), "") {
				switch {
				case line == "----":
					expecting = true
				case expecting && line != "":
					want.WriteString(line + "\n")
				case expecting:
					if printed != want.String() {
						t.Fatalf("line %d: got\n%swant\n%s", n, printed, want.String())
					}
					printed, expecting = "", false
					want.Reset()
				case line != "" && !strings.HasPrefix(line, "#"):
					out := s.do(t, line)
					printed += out
					if out != "" {
						asked++
					}
				}
			}
			if asked == 0 || expecting || printed != "" {
				t.Errorf("%d plans were asked for, and the last block is not compared", asked)
			}
		})
	}
}

// FuzzPlan holds the rules against queues of any kind.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{3, 1, 0, 9, 200, 1, 1, 0, 3, 4}, uint8(4), uint8(5), uint8(7))
	f.Add([]byte{}, uint8(1), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, maxRows, delay, now uint8) {
		limits := batch.Limits{MaxRows: int(maxRows)%16 + 1, MaxDelay: time.Duration(delay%8) * time.Millisecond}
		var queue []*batch.Waiting
		for i := 0; i+3 < len(data); i += 4 {
			w := &batch.Waiting{
				Rows: int(data[i])%20 + 1, Shape: strconv.Itoa(int(data[i+1]) % 7), Since: epoch.Add(time.Duration(i/4) * time.Millisecond),
				Gone: data[i+2]%5 == 0,
			}
			if data[i+3]%3 == 0 {
				w.Deadline = epoch.Add(time.Duration(data[i+3]) * time.Millisecond)
			}
			queue = append(queue, w)
		}
		clock := epoch.Add(time.Duration(now) * time.Millisecond)
		d := batch.Plan(queue, clock, limits)
		dropped := map[int]bool{}
		for _, drop := range d.Drops {
			w := queue[drop.Index]
			if drop.Cancelled != w.Gone || !drop.Cancelled && (w.Deadline.IsZero() || w.Deadline.After(clock)) {
				t.Fatalf("dropped for nothing: %+v", w)
			}
			dropped[drop.Index] = true
		}
		rows := 0
		for at, i := range d.Run {
			rows += queue[i].Rows
			if dropped[i] || queue[i].Shape != queue[d.Run[0]].Shape || at > 0 && i <= d.Run[at-1] {
				t.Fatalf("%v runs together", d.Run)
			}
		}
		if len(d.Run) > 1 && rows > limits.MaxRows {
			t.Fatalf("%d rows, at most %d", rows, limits.MaxRows)
		}
		if left := len(queue) - len(d.Drops); (left == 0) != (len(d.Run) == 0 && d.Wait.IsZero()) {
			t.Fatalf("%d are left, and the decision is %+v", left, d)
		}
		if len(d.Run) == 0 && !d.Wait.IsZero() && !d.Wait.After(clock) {
			t.Fatalf("waits until %v at %v", d.Wait, clock)
		}
	})
}
