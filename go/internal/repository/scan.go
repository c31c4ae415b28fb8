// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
)

const (
	labelsName      = "labels.json"
	maxLabelsBytes  = 1 << 20
	maxManifestSize = 16 << 20
)

// list reads the names in the repository: models, versions, labels. No file of a version is opened.
func (r *Repository) list() (map[string]*Entry, error) {
	items, err := entriesOf(r.root, ".")
	if err != nil {
		return nil, err
	}
	entries := map[string]*Entry{}
	for _, item := range items {
		name := item.Name()
		switch {
		case strings.HasPrefix(name, "."):
		case item.Type()&fs.ModeSymlink != 0:
			r.leftOut(name, "it is a link")
		case !item.IsDir():
		case !model.IsID(name):
			r.leftOut(name, "its name is no model id")
		default:
			entry, err := r.listModel(name)
			if err != nil {
				r.leftOut(name, plain(err).Error())
				continue
			}
			entries[name] = entry
		}
	}
	return entries, nil
}

func (r *Repository) listModel(id string) (*Entry, error) {
	items, err := entriesOf(r.root, id)
	if err != nil {
		return nil, err
	}
	entry := &Entry{ID: id, Labels: map[string]string{}}
	for _, item := range items {
		name := item.Name()
		link := item.Type()&fs.ModeSymlink != 0
		switch {
		case strings.HasPrefix(name, "."):
		case name == labelsName:
			entry.Labels = r.readLabels(id)
		case model.IsVersion(name) && link:
			entry.Versions = append(entry.Versions, failed(id, name, errors.New("its directory is a link"), nil))
		case link:
			r.leftOut(id+"/"+name, "it is a link")
		case !item.IsDir():
		case !model.IsVersion(name):
			r.leftOut(id+"/"+name, "its name is no version")
		default:
			entry.Versions = append(entry.Versions, Version{Number: name, State: Loading})
		}
	}
	slices.SortFunc(entry.Versions, func(a, b Version) int { return model.CompareVersions(a.Number, b.Number) })
	return entry, nil
}

func (r *Repository) leftOut(name, why string) {
	r.options.Log.Warn("left out of the repository", "name", fault.Shown(name), "reason", why)
}

// readLabels reads labels.json. A label that breaks the grammar is left out alone, a file that is no JSON object with all its labels.
func (r *Repository) readLabels(id string) map[string]string {
	name := id + "/" + labelsName
	data, err := readFile(r.root, name, maxLabelsBytes)
	if err != nil {
		r.leftOut(name, err.Error())
		return map[string]string{}
	}
	labels, bad, err := parseLabels(data)
	if err != nil {
		r.leftOut(name, err.Error())
	}
	for _, label := range bad {
		r.leftOut(name+" label "+fault.Shown(label), "expected a label [a-z][a-z0-9-]{0,62} with a version number")
	}
	return labels
}

// parseLabels reads a JSON object from label to version, a string or an integer. It gives the good ones and the names of the bad.
func parseLabels(data []byte) (labels map[string]string, bad []string, err error) {
	labels = map[string]string{}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		return labels, nil, errors.New("expected a JSON object from label to version")
	}
	for label, raw := range object {
		var version string
		if json.Unmarshal(raw, &version) != nil {
			version = string(raw) // an integer as it stands; anything else is no version number
		}
		if !model.IsLabel(label) || !model.IsVersion(version) {
			bad = append(bad, label)
			continue
		}
		labels[label] = version
	}
	slices.Sort(bad)
	return labels, bad, nil
}

// entriesOf lists a directory below the root that is no link, by name.
func entriesOf(root *os.Root, name string) ([]fs.DirEntry, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if before.Mode()&fs.ModeSymlink != 0 {
		return nil, errors.New("it is a link")
	}
	directory, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	after, err := directory.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(before, after) {
		return nil, errors.New("it changed while it was read")
	}
	items, err := directory.ReadDir(-1)
	slices.SortFunc(items, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return items, err
}

// openRegular opens a regular file that is no link; errors name the file by its last element alone.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	base := name[strings.LastIndexByte(name, '/')+1:]
	before, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("%s is missing", base)
	case err != nil:
		return nil, nil, fmt.Errorf("%s cannot be read: %w", base, plain(err))
	case before.Mode()&fs.ModeSymlink != 0:
		return nil, nil, fmt.Errorf("%s is a link", base)
	case !before.Mode().IsRegular():
		return nil, nil, fmt.Errorf("%s is no regular file", base)
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be read: %w", base, plain(err))
	}
	after, err := file.Stat()
	if err != nil || !os.SameFile(before, after) {
		file.Close()
		return nil, nil, fmt.Errorf("%s changed while it was read", base)
	}
	return file, after, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	file, info, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	base := name[strings.LastIndexByte(name, '/')+1:]
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: expected at most %d bytes, got %d", base, limit, info.Size())
	}
	return readSized(file, base, info.Size())
}

// readSized reads a file that must hold exactly so many bytes.
func readSized(file *os.File, base string, size int64) ([]byte, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, fmt.Errorf("%s changed while it was read", base)
	}
	if n, _ := file.Read(make([]byte, 1)); n > 0 {
		return nil, fmt.Errorf("%s changed while it was read", base)
	}
	return data, nil
}

// plain is an error of the file system without the path that it names.
func plain(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}
