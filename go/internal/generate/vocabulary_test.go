// SPDX-License-Identifier: Apache-2.0

package generate

import "testing"

func TestCheckTokenizer(t *testing.T) {
	for data, want := range map[string]string{
		`{"model":{"type":"BPE","vocab":{"a":0,"b":16777215},"merges":[]},"added_tokens":[{"id":2,"content":"c"}]}`: "",
		`{"model":{"vocab":{},"merges":["a b"]},"added_tokens":null}`:                                               "",
		`{"model":{"type":"Unigram","vocab":[["a",-1.5]]}}`:                                                         "",
		`{"model":{"type":"WordPiece","vocab":{"a":0}}}`:                                                            "",
		``:                                   "expected JSON",
		`{`:                                  "expected JSON",
		`{}{}`:                               "expected JSON",
		`null`:                               "model: expected an object, got nothing",
		`[]`:                                 "model: expected an object, got nothing",
		`{"model":[]}`:                       "model: expected an object, got a list",
		`{"model":{}}`:                       "model.vocab: expected an object, got nothing",
		`{"model":{"vocab":[]}}`:             "model.vocab: expected an object, got a list",
		`{"model":{"vocab":{}}}`:             "model.merges: expected a list, got nothing",
		`{"model":{"type":"Unigram"}}`:       "model.vocab: expected an object or a list, got nothing",
		`{"model":{"vocab":{},"merges":{}}}`: "model.merges: expected a list, got an object",
		`{"model":{"vocab":{"a":-1},"merges":[]}}`:                                    "model.vocab: expected tokens from 0 to 16777215, got -1",
		`{"model":{"vocab":{"a":16777216},"merges":[]}}`:                              "model.vocab: expected tokens from 0 to 16777215, got 16777216",
		`{"model":{"vocab":{"a":1.5},"merges":[]}}`:                                   "model.vocab: expected tokens from 0 to 16777215, got 1.5",
		`{"model":{"type":"WordPiece","vocab":{"a":"b"}}}`:                            `model.vocab: expected tokens from 0 to 16777215, got "b"`,
		`{"model":{"vocab":{},"merges":[]},"added_tokens":{}}`:                        "added_tokens: expected a list, got an object",
		`{"model":{"vocab":{},"merges":[]},"added_tokens":[1]}`:                       "added_tokens: expected objects, got 1",
		`{"model":{"vocab":{},"merges":[]},"added_tokens":[{"id":4294967295}]}`:       "added_tokens: expected tokens from 0 to 16777215, got 4294967295",
		`{"model":{"vocab":{},"merges":[]},"added_tokens":[{"id":0},{"content":""}]}`: "added_tokens: expected tokens from 0 to 16777215, got nothing",
	} {
		got := ""
		if err := CheckTokenizer([]byte(data)); err != nil {
			got = err.Error()
		}
		if want != "" {
			want = TokenizerName + ": " + want
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
}
