// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	pid, parent, ticks, err := parse("42 (a) b (c)) S 7 42 42 0 -1 4194560 100 0 0 0 150 25 999 999 20 0 1 0 5 1000 10")
	if err != nil || pid != 42 || parent != 7 || ticks != 175 {
		t.Errorf("got pid %d, parent %d, ticks %d, %v; want 42, 7, 175: children that were waited for do not count", pid, parent, ticks, err)
	}
	for _, bad := range []string{"", "42", "42 (a) S 1", "x (a) S 7 42 42 0 -1 4194560 100 0 0 0 150 25"} {
		if _, _, _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMachine(t *testing.T) {
	// user nice system idle iowait irq softirq steal guest guest_nice
	if got := machine("cpu  100 10 50 100000 200 3 4 33 7 8"); got != 2 {
		t.Errorf("got %v seconds, want 2", got)
	}
}

func TestDescendants(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Skip("no sleep on this machine")
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	group := Of(os.Getpid())
	if group[0] != os.Getpid() || !slices.Contains(group, child.Process.Pid) {
		t.Errorf("got %v, want this process first and its child %d", group, child.Process.Pid)
	}
	if rss, alone := group.RSSMegabytes(), (Group{os.Getpid()}).RSSMegabytes(); rss <= alone || alone <= 0 {
		t.Errorf("got %v MB with the child, %v without", rss, alone)
	}
	if Of(0).CPUSeconds() != 0 {
		t.Error("no process used time")
	}
}
