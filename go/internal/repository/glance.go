// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"maps"
	"os"
	"slices"
)

// Glance looks at the directory soon after something in it has changed. It only hastens what scans would do: labels, and versions that two
// glances in a row have found the same and complete, as their manifest says. Whatever may still be written, and whatever is gone, is left to
// scans, which have more time between them.
func (r *Repository) Glance(ctx context.Context) {
	r.scanning.Lock()
	defer r.scanning.Unlock()
	models, _, err := list(r.directory)
	if err != nil {
		return // a scan will say so
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(models)) {
		if models[id].versions == nil {
			continue
		}
		m, changed := r.known(id)
		if m.relabel(models[id]) {
			changed = true
		}
		var complete []*version
		for number, seen := range models[id].versions {
			v := m.versions[number]
			if v == nil || v.gone {
				v = arrived(number, r.looks+1)
				m.versions[number] = v
				changed = true
			}
			same := v.glimpsed == seen
			v.glimpsed = seen
			if !same || seen == v.tried || v.cancel != nil || !r.isComplete(id, number) {
				continue
			}
			v.seen, v.missed = seen, false
			if v.State == Failed {
				v.again(r.looks + 1)
				changed = true
			}
			complete = append(complete, v)
		}
		if changed {
			r.publish(id)
		}
		for _, v := range complete {
			r.begin(ctx, id, v)
		}
	}
}

// isComplete tells whether all files that a version's manifest lists are there, with their sizes, and no others. Their bytes are not read.
func (r *Repository) isComplete(id, number string) bool {
	root, err := os.OpenRoot(r.directory)
	if err != nil {
		return false
	}
	defer root.Close()
	directory := id + "/" + number
	data, err := readFile(root, directory+"/"+manifestName, maxManifestSize)
	if err != nil {
		return false
	}
	manifest, err := parseManifest(data)
	if err != nil {
		return false
	}
	items, err := entriesOf(root, directory)
	if err != nil || len(items) != len(manifest.GetFiles())+1 {
		return false
	}
	for _, file := range manifest.GetFiles() {
		info, err := root.Lstat(directory + "/" + file.GetName())
		if err != nil || !info.Mode().IsRegular() || info.Size() != file.GetSizeBytes() {
			return false
		}
	}
	return true
}
