// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	manifestName = "manifest.json"
	graphName    = "model.onnx"
	externalName = "model.onnx.data"
	goldenName   = "golden.binpb"
)

// contents are the verified bytes of a version: each file was read once, and what was hashed is what is used.
type contents struct {
	manifest *modelpackagev1.Manifest // nil for a bare model
	graph    []byte
	golden   []byte
	external map[string][]byte // by name: what the graph's external initializers may lie in
	files    map[string][]byte // by name: what a text generator has besides; nil for all other kinds
	sums     map[string]string // sha256 of graph, external and files, in lower-case hexadecimal, by name
}

// read reads the directory of a version, whole.
func read(root *os.Root, directory string, requireManifest bool) (*contents, error) {
	if info, err := root.Lstat(directory); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return nil, errors.New("its directory is a link")
	}
	items, err := entriesOf(root, directory)
	if err != nil {
		return nil, plain(err)
	}
	var names []string
	for _, item := range items {
		name := item.Name()
		if item.Type()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s is a link", fault.Shown(name))
		}
		names = append(names, name)
	}
	if slices.Contains(names, manifestName) {
		return readPackage(root, directory, names)
	}
	if !slices.Contains(names, graphName) {
		return nil, fmt.Errorf("expected %s or %s, got neither", manifestName, graphName)
	}
	if requireManifest {
		return nil, fmt.Errorf("%s is missing, and this server requires it", manifestName)
	}
	c, err := readBare(root, directory, names)
	if err == nil && slices.Contains(names, generate.SettingsName) {
		err = c.readBareGenerator(root, directory, names)
	}
	return c, err
}

func readPackage(root *os.Root, directory string, names []string) (*contents, error) {
	data, err := readFile(root, directory+"/"+manifestName, maxManifestSize)
	if err != nil {
		return nil, err
	}
	manifest, err := parseManifest(data)
	if err != nil {
		return nil, err
	}
	listed := map[string]*modelpackagev1.File{manifestName: nil}
	for _, file := range manifest.GetFiles() {
		listed[file.GetName()] = file
	}
	for _, name := range names {
		if _, ok := listed[name]; !ok {
			return nil, fmt.Errorf("%s is not listed in %s", fault.Shown(name), manifestName)
		}
	}
	c := &contents{manifest: manifest, external: map[string][]byte{}, sums: map[string]string{}}
	for _, file := range manifest.GetFiles() {
		data, err := readListed(root, directory, file)
		if err != nil {
			return nil, err
		}
		switch file.GetName() {
		case graphName:
			c.graph = data
		case goldenName:
			c.golden = data
			continue
		default:
			c.external[file.GetName()] = data
		}
		c.sums[file.GetName()] = file.GetSha256()
	}
	if manifest.GetKind() == inferencev1.ModelKind_MODEL_KIND_GENERATOR {
		return c, c.sortGenerator()
	}
	return c, nil
}

func readListed(root *os.Root, directory string, listed *modelpackagev1.File) ([]byte, error) {
	name := listed.GetName()
	file, info, err := openRegular(root, directory+"/"+name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info.Size() != listed.GetSizeBytes() {
		return nil, fmt.Errorf("size of %s is not the manifest's", name)
	}
	data, err := readSized(file, name, info.Size())
	if err != nil {
		return nil, err
	}
	if sum(data) != listed.GetSha256() {
		return nil, fmt.Errorf("sha256 of %s is not the manifest's", name)
	}
	return data, nil
}

func readBare(root *os.Root, directory string, names []string) (*contents, error) {
	graph, err := readFile(root, directory+"/"+graphName, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	c := &contents{graph: graph, external: map[string][]byte{}, sums: map[string]string{graphName: sum(graph)}}
	if !slices.Contains(names, externalName) {
		return c, nil
	}
	data, err := readUnlisted(root, directory, externalName, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	c.external[externalName], c.sums[externalName] = data, sum(data)
	return c, nil
}

// readUnlisted reads a file of which no hash says what it should be, so that it must not be somebody else's under a second name.
func readUnlisted(root *os.Root, directory, name string, limit int64) ([]byte, error) {
	file, info, err := openRegular(root, directory+"/"+name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return nil, fmt.Errorf("%s has several links", name)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: expected at most %d bytes, got %d", name, limit, info.Size())
	}
	return readSized(file, name, info.Size())
}

func sum(data []byte) string {
	hash := sha256.Sum256(data)
	return hex.EncodeToString(hash[:])
}

// parseManifest reads a manifest strictly and checks what it says of files; the graph is needed for the rest.
func parseManifest(data []byte) (*modelpackagev1.Manifest, error) {
	manifest := &modelpackagev1.Manifest{}
	if err := protojson.Unmarshal(data, manifest); err != nil {
		return nil, fmt.Errorf("%s is no manifest: %s", manifestName, jsonError(err))
	}
	files := map[string]bool{}
	for _, file := range manifest.GetFiles() {
		name := file.GetName()
		quoted := fault.Quote(name)
		switch {
		case !isFileName(name):
			return nil, fmt.Errorf("files: expected a file name without directory and leading dot, got %s", quoted)
		case name == manifestName:
			return nil, fmt.Errorf("files: %s lists itself", manifestName)
		case files[name]:
			return nil, fmt.Errorf("files: %s is listed twice", quoted)
		case !isSHA256(file.GetSha256()):
			return nil, fmt.Errorf("files: sha256 of %s: expected 64 lower-case hexadecimal digits, got %s", quoted, fault.Quote(file.GetSha256()))
		case file.GetSizeBytes() < 0:
			return nil, fmt.Errorf("files: size of %s: expected at least 0, got %d", quoted, file.GetSizeBytes())
		}
		files[name] = true
	}
	for _, name := range []string{graphName, goldenName} {
		if !files[name] {
			return nil, fmt.Errorf("files: %s is not listed", name)
		}
	}
	if rows := manifest.GetBatching().GetMaxBatchRows(); rows < 0 {
		return nil, fmt.Errorf("batching: max_batch_rows: expected at least 0, got %d", rows)
	}
	return manifest, nil
}

func isFileName(name string) bool {
	if name == "" || name[0] == '.' || len(name) > 255 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || r < 0x20 || r == 0x7f })
}

func isSHA256(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == sha256.Size && strings.ToLower(text) == text
}

// jsonError is the library's text made stable: its spaces vary on purpose, and so does its prefix.
func jsonError(err error) error {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return errors.New(strings.TrimPrefix(fault.Scrub(text), "proto: "))
}
