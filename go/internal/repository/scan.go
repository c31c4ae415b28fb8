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
	"syscall"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
)

const (
	labelsName      = "labels.json"
	maxLabelsBytes  = 1 << 20
	maxManifestSize = 16 << 20
)

// fingerprint tells whether the files of a version are the same as before: it differs wherever a file was added, removed, replaced or written.
type fingerprint string

// found is what a scan found of a model.
type found struct {
	labels   map[string]string      // nil: they cannot be read
	versions map[string]fingerprint // by number; nil: the directory cannot be read
}

// scan is one look at a repository's names. No file of a version is opened.
type scan struct {
	root     *os.Root
	troubles map[string]string // what is left out, and why
}

// list looks at a repository: models, versions, labels. Troubles are what it leaves out and should not be there.
func list(directory string) (models map[string]*found, troubles map[string]string, err error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	items, err := entriesOf(root, ".")
	if err != nil {
		return nil, nil, err
	}
	s := &scan{root: root, troubles: map[string]string{}}
	models = map[string]*found{}
	for _, item := range items {
		name := item.Name()
		switch {
		case strings.HasPrefix(name, "."):
		case item.Type()&fs.ModeSymlink != 0:
			s.leftOut(name, "it is a link")
		case !item.IsDir():
		case !model.IsID(name):
			s.leftOut(name, "its name is no model id")
		default:
			m, err := s.model(name)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue // it has just gone
			case err != nil:
				s.leftOut(name, plain(err).Error())
				m = &found{}
			}
			models[name] = m
		}
	}
	return models, s.troubles, nil
}

func (s *scan) model(id string) (*found, error) {
	items, err := entriesOf(s.root, id)
	if err != nil {
		return nil, err
	}
	m := &found{labels: map[string]string{}, versions: map[string]fingerprint{}}
	for _, item := range items {
		name := item.Name()
		link := item.Type()&fs.ModeSymlink != 0
		switch {
		case strings.HasPrefix(name, "."):
		case name == labelsName:
			m.labels = s.labels(id)
		case model.IsVersion(name) && (link || item.IsDir()):
			if seen, there := s.version(id + "/" + name); there {
				m.versions[name] = seen
			}
		case link:
			s.leftOut(id+"/"+name, "it is a link")
		case item.IsDir():
			s.leftOut(id+"/"+name, "its name is no version")
		}
	}
	return m, nil
}

// version is the fingerprint of a version's directory, or of the link in its place.
func (s *scan) version(directory string) (seen fingerprint, there bool) {
	var b strings.Builder
	if !s.note(&b, directory, false) {
		return "", false
	}
	items, err := entriesOf(s.root, directory)
	if err != nil {
		// A link, or it cannot be read: loading it says so.
		return fingerprint(b.String()), !errors.Is(err, fs.ErrNotExist)
	}
	for _, item := range items {
		s.note(&b, directory+"/"+item.Name(), true)
	}
	return fingerprint(b.String()), true
}

// note writes down what changes when a file does. A directory's times are left out: they change when it is renamed, and what is in it is
// written down by itself.
func (s *scan) note(b *strings.Builder, name string, times bool) bool {
	info, err := s.root.Lstat(name)
	if err != nil {
		return false // it has just gone, which the names that are left tell
	}
	stat := info.Sys().(*syscall.Stat_t)
	fmt.Fprintf(b, "%s\x00%d %d %o", name, stat.Dev, stat.Ino, stat.Mode)
	if times {
		fmt.Fprintf(b, " %d %d.%d %d.%d", stat.Size, stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec)
	}
	b.WriteByte('\n')
	return true
}

func (s *scan) leftOut(name, why string) { s.troubles[name] = why }

// labels reads labels.json, or gives nil where that is no JSON object. A label that breaks the grammar is left out alone.
func (s *scan) labels(id string) map[string]string {
	name := id + "/" + labelsName
	data, err := readFile(s.root, name, maxLabelsBytes)
	if err != nil {
		s.leftOut(name, err.Error())
		return nil
	}
	labels, bad, err := parseLabels(data)
	if err != nil {
		s.leftOut(name, err.Error())
		return nil
	}
	for _, label := range bad {
		s.leftOut(name+" label "+fault.Shown(label), "expected a label [a-z][a-z0-9-]{0,62} with a version number")
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
