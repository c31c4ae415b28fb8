// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"golang.org/x/sys/unix"
)

const (
	lockName  = ".lock"
	lockEvery = 10 * time.Millisecond // between two attempts to lock
)

// Editor changes a repository on disk: it puts versions in, takes them out, and points labels at them. Every process that serves the
// repository follows the disk, so an editor does nothing else. Ids, versions and labels must be well-formed. Errors are faults; whatever else
// goes wrong on the disk is an error of its own.
type Editor struct {
	// Models is the repository's directory, Staging the one that packages come from, or nothing.
	Models, Staging string
	RequireManifest bool
	Log             *slog.Logger

	rename func(from *os.File, name string, to *os.File, as string) error // renameOver; tests have others
}

// Load moves a staged package into the repository, once its files are as its manifest says.
func (e *Editor) Load(ctx context.Context, id, number string) error {
	if e.Staging == "" {
		return fault.New(fault.StagingUnset, "the server has no staging directory").At(id, number)
	}
	models, err := openDirectory(nil, e.Models)
	if err != nil {
		return err
	}
	defer models.Close()
	exists := fault.New(fault.VersionExists, "model %s has version %s already", fault.Quote(id), fault.Shown(number)).At(id, number)
	switch there, err := has(models, id+"/"+number); {
	case err != nil:
		return err
	case there:
		return exists
	}
	if err := e.checkStaged(id, number); err != nil {
		return err
	}
	staging, err := openDirectory(nil, e.Staging)
	if err != nil {
		return err
	}
	defer staging.Close()
	from, err := openDirectory(staging, id)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := unix.Mkdirat(int(models.Fd()), id, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	to, err := openDirectory(models, id)
	if isLink(err) {
		return failed(id, number, errors.New("its directory is a link"), nil).Fault
	}
	if err != nil {
		return err
	}
	defer to.Close()

	beside := ".load-" + number + "-" + rand.Text()
	copied, err := e.bring(from, number, to, beside)
	if errors.Is(err, fs.ErrNotExist) {
		return notStaged(id, number) // somebody else has taken it
	}
	if err != nil {
		return err
	}
	if err := e.place(ctx, to, beside, number); err != nil {
		if copied {
			err = errors.Join(err, removeAll(to, beside))
		} else {
			err = errors.Join(err, renameTo(to, beside, from, number))
		}
		if errors.Is(err, fs.ErrExist) {
			return exists
		}
		return err
	}
	if err := models.Sync(); err != nil {
		return err
	}
	if copied {
		if err := removeAll(from, number); err != nil {
			return err
		}
	}
	e.Log.Info("model loaded from staging", "model_id", id, "model_version", number)
	return nil
}

// checkStaged reads a staged package as a load does. Only the names are its own to judge; the rest is for admission.
func (e *Editor) checkStaged(id, number string) error {
	root, err := os.OpenRoot(e.Staging)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{id, id + "/" + number} {
		info, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
			return notStaged(id, number)
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			return failed(id, number, errors.New("its directory is a link"), nil).Fault
		case !info.IsDir():
			return notStaged(id, number)
		}
	}
	c, err := read(root, id+"/"+number, e.RequireManifest)
	if err == nil {
		_, err = kindOf(c)
	}
	if err != nil {
		return failed(id, number, err, nil).Fault
	}
	return nil
}

func notStaged(id, number string) *fault.Fault {
	return fault.New(fault.VersionNotFound, "model %s has no version %s in the staging directory",
		fault.Quote(id), fault.Shown(number)).At(id, number)
}

// bring moves a staged directory beside its place, and tells whether it had to be copied.
func (e *Editor) bring(from *os.File, number string, to *os.File, beside string) (copied bool, err error) {
	rename := e.rename
	if rename == nil {
		rename = renameTo
	}
	if err := rename(from, number, to, beside); !errors.Is(err, unix.EXDEV) {
		return false, err
	}
	if err := copyDirectory(from, number, to, beside); err != nil {
		return false, errors.Join(err, removeAll(to, beside))
	}
	return true, nil
}

// place gives what lies beside its place its name.
func (e *Editor) place(ctx context.Context, directory *os.File, beside, number string) error {
	unlock, err := lock(ctx, directory)
	if err != nil {
		return err
	}
	defer unlock()
	if err := renameTo(directory, beside, directory, number); err != nil {
		return err
	}
	return directory.Sync()
}

// Unload takes a version out of the repository; who serves it finishes what it has taken.
func (e *Editor) Unload(ctx context.Context, id, number string) error {
	directory, err := e.model(id)
	if err != nil {
		return err
	}
	defer directory.Close()
	away := unloaded + number + "-" + rand.Text()
	if err := func() error {
		unlock, err := lock(ctx, directory)
		if err != nil {
			return err
		}
		defer unlock()
		if err := checkVersion(directory, id, number); err != nil {
			return err
		}
		if err := renameTo(directory, number, directory, away); err != nil {
			return err
		}
		return directory.Sync()
	}(); err != nil {
		return err
	}
	if err := removeAll(directory, away); err != nil {
		return err
	}
	e.Log.Info("model unloaded", "model_id", id, "model_version", number)
	return nil
}

// SetLabel points a label at a version that is in the repository or, where the version is empty, removes it. It gives the model's labels after
// the change.
func (e *Editor) SetLabel(ctx context.Context, id, label, number string) (map[string]string, error) {
	directory, err := e.model(id)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	unlock, err := lock(ctx, directory)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if number != "" {
		if err := checkVersion(directory, id, number); err != nil {
			return nil, err
		}
	}
	members, err := e.members(id)
	if err != nil {
		return nil, err
	}
	said := "label set"
	if number == "" {
		delete(members, label)
		said = "label removed"
	} else {
		members[label] = json.RawMessage(`"` + number + `"`)
	}
	data := document(members)
	if err := replace(directory, labelsName, data); err != nil {
		return nil, err
	}
	e.Log.Info(said, "model_id", id, "model_version", number, "label", label)
	labels, _, err := parseLabels(data)
	return labels, err
}

// members are those of labels.json, as they stand there.
func (e *Editor) members(id string) (map[string]json.RawMessage, error) {
	root, err := os.OpenRoot(e.Models)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	members := map[string]json.RawMessage{}
	name := id + "/" + labelsName
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return members, nil
	}
	broken := func(why string) error {
		return fault.New(fault.ModelFailed, "model %s: %s", fault.Quote(id), why).At(id, "")
	}
	data, err := readFile(root, name, maxLabelsBytes)
	if err != nil {
		return nil, broken(err.Error())
	}
	if _, _, err := parseLabels(data); err != nil {
		return nil, broken(labelsName + ": " + err.Error())
	}
	return members, json.Unmarshal(data, &members)
}

// document is the text of labels.json.
func document(members map[string]json.RawMessage) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			b.WriteByte(',')
		}
		quoted, _ := json.Marshal(name) // a text always can be
		fmt.Fprintf(&b, "\n  %s: %s", quoted, members[name])
	}
	if len(members) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// model is the directory of a model in the repository.
func (e *Editor) model(id string) (*os.File, error) {
	models, err := openDirectory(nil, e.Models)
	if err != nil {
		return nil, err
	}
	defer models.Close()
	directory, err := openDirectory(models, id)
	if errors.Is(err, fs.ErrNotExist) || isLink(err) {
		return nil, fault.New(fault.ModelNotFound, "model %s not found", fault.Quote(id)).At(id, "")
	}
	return directory, err
}

// checkVersion refuses a version that is not in a model's directory. A link is one as well: one that fails.
func checkVersion(directory *os.File, id, number string) error {
	var stat unix.Stat_t
	err := unix.Fstatat(int(directory.Fd()), number, &stat, unix.AT_SYMLINK_NOFOLLOW)
	kind := stat.Mode & unix.S_IFMT
	if err == nil && (kind == unix.S_IFDIR || kind == unix.S_IFLNK) {
		return nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
		return noVersion(id, number)
	}
	return err
}

// openDirectory opens a directory that is no link, where a parent is given; isLink knows the error where it is one, or no directory.
func openDirectory(parent *os.File, name string) (*os.File, error) {
	at, flags := unix.AT_FDCWD, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC
	if parent != nil {
		at, flags = int(parent.Fd()), flags|unix.O_NOFOLLOW
	}
	fd, err := unix.Openat(at, name, flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func isLink(err error) bool { return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) }

// has tells whether anything has a name.
func has(directory *os.File, name string) (bool, error) {
	var stat unix.Stat_t
	err := unix.Fstatat(int(directory.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) {
		return false, nil
	}
	return err == nil, err
}

// renameTo renames, never over anything.
func renameTo(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), as, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// This file system cannot promise it. The lock keeps editors apart.
	if there, err := has(to, as); err != nil || there {
		return errors.Join(err, fs.ErrExist)
	}
	return unix.Renameat(int(from.Fd()), name, int(to.Fd()), as)
}

// lock waits for the lock of a model's directory.
func lock(ctx context.Context, directory *os.File) (unlock func(), err error) {
	fd, err := unix.Openat(int(directory.Fd()), lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), lockName)
	ticker := time.NewTicker(lockEvery)
	defer ticker.Stop()
	for {
		if err := ctx.Err(); err != nil {
			file.Close()
			return nil, fault.Ended(ctx)
		}
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// replace writes a file of a directory so that it is the old one or the new one, whole, whatever happens.
func replace(directory *os.File, name string, data []byte) error {
	beside := "." + name + "-" + rand.Text()
	file, err := create(directory, beside)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = unix.Renameat(int(directory.Fd()), beside, int(directory.Fd()), name)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(int(directory.Fd()), beside, 0))
	}
	return directory.Sync()
}

func create(directory *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(directory.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyDirectory copies the files of a directory, durably.
func copyDirectory(from *os.File, name string, to *os.File, as string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", from.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	items, err := entriesOf(root, name)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(int(to.Fd()), as, 0o755); err != nil {
		return err
	}
	target, err := openDirectory(to, as)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, item := range items {
		if err := copyFile(root, name+"/"+item.Name(), target, item.Name()); err != nil {
			return err
		}
	}
	return target.Sync()
}

func copyFile(root *os.Root, name string, to *os.File, as string) error {
	source, _, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := create(to, as)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Sync(), target.Close())
}

// removeAll deletes what a directory has under a name: a link alone, or a directory with all that is in it.
func removeAll(directory *os.File, name string) error {
	return os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", directory.Fd(), name))
}
