// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"sync"
	"testing"

	"github.com/concord-inference/concord/go/internal/modeltest"
)

func TestHold(t *testing.T) {
	session := &modeltest.Session{}
	m := newModel(session)
	for range 2 {
		if !m.Hold() {
			t.Fatal("it cannot be held")
		}
	}
	m.Release()
	freed := make(chan struct{})
	m.Retire(func() { close(freed) })
	if session.Closed.Load() {
		t.Error("it is freed while it is held")
	}
	if !m.Hold() {
		t.Error("it cannot be held while another holds it")
	}
	m.Release()
	m.Release()
	<-freed
	for range 2 {
		if !session.Closed.Load() || m.Hold() {
			t.Error("it is not freed, or can be held")
		}
	}
}

// TestHoldWhileRetired races holders against the end: nobody holds a closed session, and it is closed once.
func TestHoldWhileRetired(t *testing.T) {
	for range 200 {
		session := &modeltest.Session{}
		m := newModel(session)
		freed := make(chan struct{})
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for i := 0; i < 50 && m.Hold(); i++ {
					if session.Closed.Load() {
						t.Error("it is freed while it is held")
					}
					m.Release()
				}
			})
		}
		group.Go(func() { m.Retire(func() { close(freed) }) }) // a second close would panic
		group.Wait()
		<-freed
	}
}
