// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// planned is an engine that only plans.
type planned struct {
	slots   []*seat
	waiting []*seat
	names   map[*seat]string
	came    int64
	pace    pace
	most    int
	last    round
	beside  bool // whether somebody took steps beside the last chunk
}

func (p *planned) do(t *testing.T, line string) string {
	t.Helper()
	words := strings.Fields(line)
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	switch words[0] {
	case "slots":
		*p = planned{slots: make([]*seat, int(number(words[1]))), names: map[*seat]string{}, most: 512}
	case "chunk":
		p.most = int(number(words[1]))
	case "come":
		s := &seat{order: p.came, prompt: int(number(strings.TrimPrefix(words[2], "prompt=")))}
		p.came++
		p.names[s] = words[1]
		p.waiting = append(p.waiting, s)
	case "leave":
		named := func(s *seat) bool { return s != nil && p.names[s] == words[1] }
		if at := slices.IndexFunc(p.slots, named); at >= 0 {
			p.slots[at] = nil
		} else {
			p.waiting = slices.DeleteFunc(p.waiting, named)
		}
	case "took":
		for _, word := range words[1:] {
			what, text, _ := strings.Cut(word, "=")
			took := time.Duration(number(text) * float64(time.Millisecond))
			switch what {
			case "chunk":
				p.pace.prefilled(p.last.tokens, took, p.beside)
			case "step":
				p.pace.stepped(took)
			default:
				t.Fatalf("unknown setting %q", line)
			}
		}
	case "round":
		return p.round()
	default:
		t.Fatalf("unknown command %q", line)
	}
	return ""
}

func (p *planned) round() string {
	r := plan(p.slots, p.waiting, &p.pace, p.most)
	p.last, p.beside = r, false
	var printed strings.Builder
	for i, slot := range r.join {
		p.slots[slot] = p.waiting[i]
		fmt.Fprintf(&printed, "join %s %d\n", p.names[p.waiting[i]], slot)
	}
	p.waiting = p.waiting[len(r.join):]
	for _, m := range r.moves {
		p.slots[m.to], p.slots[m.from] = p.slots[m.from], nil
		fmt.Fprintf(&printed, "move %s %d %d %d\n", p.names[p.slots[m.to]], m.from, m.to, m.tokens)
	}
	for _, s := range p.slots {
		p.beside = p.beside || s != nil && s.cached >= s.prompt
	}
	if r.slot >= 0 {
		p.slots[r.slot].cached += r.tokens
		fmt.Fprintf(&printed, "chunk %s %d\n", p.names[p.slots[r.slot]], r.tokens)
	}
	if len(r.decode) > 0 {
		printed.WriteString("step")
		for _, slot := range r.decode {
			p.slots[slot].cached++
			printed.WriteString(" " + p.names[p.slots[slot]])
		}
		printed.WriteString("\n")
	}
	if printed.Len() == 0 {
		return "idle\n"
	}
	return printed.String()
}

func TestPlanScripts(t *testing.T) {
	files, err := filepath.Glob("../../../conformance/generate/plan/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := &planned{}
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
					out := p.do(t, line)
					printed += out
					if out != "" {
						asked++
					}
				}
			}
			if asked == 0 || expecting || printed != "" {
				t.Errorf("%d rounds were asked for, and the last block is not compared", asked)
			}
		})
	}
}

// FuzzPlan holds the rules against engines of any kind, round after round.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{4, 1, 9, 1, 3, 3, 1, 200, 2, 0, 3, 3, 2, 1, 3})
	f.Add([]byte{1, 1, 1, 1, 2, 3, 2, 0, 3, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		p := &planned{slots: make([]*seat, int(data[0])%8+1), names: map[*seat]string{}, most: int(data[0])%50 + 1}
		for i := 1; i+1 < len(data); i += 2 {
			switch data[i] % 4 {
			case 0, 1:
				p.waiting = append(p.waiting, &seat{order: p.came, prompt: int(data[i+1])%90 + 1})
				p.came++
			case 2:
				p.slots[int(data[i+1])%len(p.slots)] = nil
			default:
				p.check(t)
				p.pace.stepped(time.Duration(data[i+1]) * time.Microsecond)
				if p.last.slot >= 0 {
					p.pace.prefilled(p.last.tokens, time.Duration(data[i+1]/3)*time.Microsecond, p.beside)
				}
			}
		}
	})
}

func (p *planned) check(t *testing.T) {
	slots, waiting := slices.Clone(p.slots), slices.Clone(p.waiting)
	before := map[*seat]int{}
	oldest := (*seat)(nil)
	free := 0
	for _, s := range append(slots, waiting...) {
		if s == nil {
			free++
			continue
		}
		before[s] = s.cached
	}
	p.round()
	if want := min(free, len(waiting)); len(waiting)-len(p.waiting) != want || !slices.Equal(p.waiting, waiting[want:]) {
		t.Fatalf("%d wait of %d, %d slots were free", len(p.waiting), len(waiting), free)
	}
	ended, advanced := false, 0
	var steps []int
	for slot, s := range p.slots {
		if s == nil {
			ended = true
			continue
		}
		if ended {
			t.Fatalf("slot %d is taken, and one below it is free", slot)
		}
		if before[s] < s.prompt && (oldest == nil || s.order < oldest.order) {
			oldest = s
		}
		if s.cached > s.prompt {
			steps = append(steps, slot)
		}
	}
	for _, s := range p.slots {
		switch {
		case s == nil:
		case s == oldest:
			advanced = min(s.cached, s.prompt) - before[s]
		case before[s] < s.prompt && s.cached != before[s], before[s] >= s.prompt && s.cached != before[s]+1:
			t.Fatalf("%+v had %d tokens", s, before[s])
		}
	}
	if !slices.Equal(steps, p.last.decode) {
		t.Fatalf("steps of %v, %v are ready", p.last.decode, steps)
	}
	if oldest != nil && (advanced < 1 || advanced > p.most || p.beside && float64(advanced) > max(8, chunkSteps*p.pace.step/p.pace.token)) {
		t.Fatalf("a chunk of %d of %+v", advanced, oldest)
	}
}
