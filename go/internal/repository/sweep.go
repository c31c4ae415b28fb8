// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
)

// unloaded begins the name of a version that is being removed.
const unloaded = ".unload-"

// sweepAge is the age at which what is left of a removal is nobody's who still removes it.
const sweepAge = 10 * time.Minute

// Sweep removes what editors that ended in the middle of an unload have left. What ended in the middle of a load stays: it may be the only
// copy there is.
func (e *Editor) Sweep() { e.sweep(time.Now().Add(-sweepAge)) }

// sweep removes what was unloaded before a time.
func (e *Editor) sweep(before time.Time) {
	root, err := os.OpenRoot(e.Models)
	if err != nil {
		return // serving it says so
	}
	defer root.Close()
	models, err := entriesOf(root, ".")
	if err != nil {
		return
	}
	for _, item := range models {
		if !item.IsDir() || !model.IsID(item.Name()) {
			continue
		}
		items, err := entriesOf(root, item.Name())
		if err != nil {
			continue
		}
		for _, left := range items {
			if strings.HasPrefix(left.Name(), unloaded) {
				e.sweepOne(root, item.Name(), left, before)
			}
		}
	}
}

func (e *Editor) sweepOne(root *os.Root, id string, left fs.DirEntry, before time.Time) {
	name := id + "/" + left.Name()
	info, err := root.Lstat(name)
	if err != nil {
		return
	}
	changed := info.Sys().(*syscall.Stat_t).Ctim
	if !time.Unix(changed.Unix()).Before(before) {
		return
	}
	if err := root.RemoveAll(name); err != nil {
		e.Log.Warn("what is left of an unload cannot be removed", "model_id", id, "name", fault.Shown(left.Name()), "cause", plain(err).Error())
		return
	}
	e.Log.Info("what was left of an unload is removed", "model_id", id, "name", fault.Shown(left.Name()))
}
