// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ text, body string }{
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"},
		{"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length:3\r\nb: c\r\n\r\nabc", "abc"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "abc"},
	} {
		if body, err := readAnswer(bufio.NewReader(strings.NewReader(c.text))); err != nil || string(body) != c.body {
			t.Errorf("%q: got %q, %v", c.text, body, err)
		}
	}
	for _, text := range []string{"", "\r\n", "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"} {
		if _, err := readAnswer(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestCallersKeepTheirConnections(t *testing.T) {
	peers := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers[r.RemoteAddr] = true
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	defer server.Close()
	seen := ""
	callers := HTTP(strings.TrimPrefix(server.URL, "http://"), "/x", []byte(`{"a":1}`), func(b []byte) error { seen = string(b); return nil }, 1)
	for range 3 {
		if err := callers[0](true); err != nil {
			t.Fatal(err)
		}
	}
	if len(peers) != 1 || seen != `{"a":1}` {
		t.Errorf("%d connections, answer %q", len(peers), seen)
	}
}
