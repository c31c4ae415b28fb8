// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// neededFiles are what every tokenizer has.
var neededFiles = []string{"tokenizer.json", "tokenizer_config.json"}

// tokenizerSettings stand in the place of the package's own, of which the tokenizer needs this alone: those could make its library load other
// files, and it refuses what a newer release writes there.
const tokenizerSettings = `{"model":{"context_length":1}}`

// ErrUnwritten says that a tokenizer's files cannot be written, which is no fault of theirs.
var ErrUnwritten = errors.New("the tokenizer's files cannot be written")

// WriteTokenizer writes a package's files, as the tokenizer's library reads them, into a directory that nobody else can read. The caller removes
// it. The error is ErrUnwritten or says which file is missing.
func WriteTokenizer(files map[string][]byte) (directory string, err error) {
	for _, name := range neededFiles {
		if len(files[name]) == 0 {
			return "", fmt.Errorf("expected %s, got none", name)
		}
	}
	if directory, err = os.MkdirTemp("", "concord-"); err != nil {
		return "", ErrUnwritten
	}
	write := func(name string, data []byte) {
		if err == nil {
			err = os.WriteFile(filepath.Join(directory, filepath.Base(name)), data, 0o600)
		}
	}
	for name, data := range files {
		if name != SettingsName {
			write(name, data)
		}
	}
	write(SettingsName, []byte(tokenizerSettings))
	if err != nil {
		os.RemoveAll(directory)
		return "", ErrUnwritten
	}
	return directory, nil
}
