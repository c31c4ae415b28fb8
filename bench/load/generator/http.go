// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// HTTP makes callers of POST path over HTTP/1.1, each with a connection of its own that stays open. The client is as small as can be: it
// writes one prepared text and reads a status, the headers that end a body, and the body.
func HTTP(address, path string, request []byte, check func([]byte) error, callers int) []Caller {
	var text bytes.Buffer
	fmt.Fprintf(&text, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, address, len(request))
	text.Write(request)
	made := make([]Caller, callers)
	for i := range made {
		var conn net.Conn
		var reader *bufio.Reader
		made[i] = func(look bool) (err error) {
			if conn == nil {
				if conn, err = net.Dial("tcp", address); err != nil {
					conn = nil
					return err
				}
				reader = bufio.NewReader(conn)
			}
			_ = conn.SetDeadline(time.Now().Add(callLimit))
			_, err = conn.Write(text.Bytes())
			var body []byte
			if err == nil {
				body, err = readAnswer(reader)
			}
			if err != nil {
				_ = conn.Close()
				conn = nil
				return err
			}
			if look {
				return check(body)
			}
			return nil
		}
	}
	return made
}

// readAnswer reads one answer, with Content-Length or in chunks. A status other than 200 is an error, and so are its first words.
func readAnswer(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	fields := bytes.Fields(line)
	if len(fields) < 2 {
		return nil, fmt.Errorf("expected a status line, got %q", line)
	}
	status := string(fields[1])
	length, chunked := 0, false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			break
		}
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = bytes.Contains(value, []byte("chunked"))
		}
	}
	var body []byte
	if chunked {
		body, err = readChunks(r)
	} else {
		body = make([]byte, length)
		_, err = io.ReadFull(r, body)
	}
	if err != nil {
		return nil, err
	}
	if status != "200" {
		return nil, fmt.Errorf("expected status 200, got %s: %.200s", status, body)
	}
	return body, nil
}

func readChunks(r *bufio.Reader) ([]byte, error) {
	var body []byte
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseUint(string(bytes.TrimSpace([]byte(line))), 16, 31)
		if err != nil {
			return nil, errors.New("expected the size of a chunk in hexadecimal")
		}
		chunk := make([]byte, size+2)
		if _, err := io.ReadFull(r, chunk); err != nil {
			return nil, err
		}
		if size == 0 {
			return body, nil
		}
		body = append(body, chunk[:size]...)
	}
}
