// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
)

// certificates are an authority, a certificate of a server for some names, and one of a client, as files.
type certificates struct {
	ca, cert, key string
	server        tls.Certificate
	pool          *x509.CertPool
}

func newCertificates(t *testing.T, names ...string) *certificates {
	t.Helper()
	folder := t.TempDir()
	caKey := newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caPEM := sign(t, ca, ca, caKey, caKey)
	made := &certificates{
		ca: filepath.Join(folder, "ca.pem"), cert: filepath.Join(folder, "client.pem"), key: filepath.Join(folder, "client.key"),
		pool: x509.NewCertPool(),
	}
	made.pool.AppendCertsFromPEM(caPEM)
	write(t, made.ca, caPEM)

	leaf := func(serial int64, use x509.ExtKeyUsage, names ...string) ([]byte, []byte) {
		key := newKey(t)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use},
		}
		for _, name := range names {
			if ip := net.ParseIP(name); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else {
				template.DNSNames = append(template.DNSNames, name)
			}
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return sign(t, template, ca, key, caKey), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	serverCert, serverKey := leaf(2, x509.ExtKeyUsageServerAuth, names...)
	var err error
	if made.server, err = tls.X509KeyPair(serverCert, serverKey); err != nil {
		t.Fatal(err)
	}
	clientCert, clientKey := leaf(3, x509.ExtKeyUsageClientAuth)
	write(t, made.cert, clientCert)
	write(t, made.key, clientKey)
	return made
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve starts a fake server with TLS; it may ask for a client's certificate.
func (c *certificates) serve(t *testing.T, auth tls.ClientAuthType) *fakeServer {
	config := &tls.Config{Certificates: []tls.Certificate{c.server}, ClientAuth: auth, ClientCAs: c.pool, MinVersion: tls.VersionTLS12}
	return start(t, grpc.Creds(credentials.NewTLS(config)))
}

func TestTLS(t *testing.T) {
	own := newCertificates(t, "localhost", "127.0.0.1")
	elsewhere := newCertificates(t, "inference.example.com")
	plain := own.serve(t, tls.NoClientCert)
	mutual := own.serve(t, tls.RequireAndVerifyClientCert)
	misnamed := elsewhere.serve(t, tls.NoClientCert)
	for name, test := range map[string]struct {
		server  *fakeServer
		options []Option
		works   bool
	}{
		"an authority":                   {plain, []Option{WithCA(own.ca)}, true},
		"a whole configuration":          {plain, []Option{WithTLSConfig(&tls.Config{RootCAs: own.pool})}, true},
		"an unknown authority":           {plain, []Option{WithCA(elsewhere.ca)}, false},
		"the authorities of the machine": {plain, []Option{WithTLS()}, false},
		"plaintext":                      {plain, nil, false},
		"a client's certificate":         {mutual, []Option{WithCA(own.ca), WithClientCertificate(own.cert, own.key)}, true},
		"no client's certificate":        {mutual, []Option{WithCA(own.ca)}, false},
		"a stranger's certificate":       {mutual, []Option{WithCA(own.ca), WithClientCertificate(elsewhere.cert, elsewhere.key)}, false},
		"another name":                   {misnamed, []Option{WithCA(elsewhere.ca)}, false},
		"another name, as told":          {misnamed, []Option{WithCA(elsewhere.ca), WithServerName("inference.example.com")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := connect(t, test.server.address, append(test.options, WithoutRetry())...).Check(t.Context(), "")
			if test.works && (err != nil || got != Serving) {
				t.Errorf("got %v, %v", got, err)
			}
			if !test.works {
				asError(t, err, codes.Unavailable)
			}
		})
	}
}

func TestATokenGoesWithEveryCall(t *testing.T) {
	own := newCertificates(t, "127.0.0.1")
	source := func(context.Context) (string, error) { return "s3cret", nil }
	for name, test := range map[string]struct {
		server  *fakeServer
		options []Option
	}{
		"TLS":         {own.serve(t, tls.NoClientCert), []Option{WithCA(own.ca), WithToken("s3cret")}},
		"loopback":    {start(t), []Option{WithToken("s3cret")}},
		"from source": {start(t), []Option{WithTokenSource(source)}},
	} {
		t.Run(name, func(t *testing.T) {
			test.server.serve("m", nil, version("1", "x FLOAT"))
			c := connect(t, test.server.address, test.options...)
			predict(t, c, Features{"x": 1})
			if _, err := c.PredictBatch(t.Context(), "m", []Features{{"x": 1}}); err != nil {
				t.Error(err)
			}
			if _, err := c.Check(t.Context(), ""); err != nil {
				t.Error(err)
			}
			if n := len(test.server.seen()); n != 4 {
				t.Errorf("%d calls, want 4", n)
			}
			for _, call := range test.server.seen() {
				if got := call.metadata.Get("authorization"); len(got) != 1 || got[0] != "Bearer s3cret" {
					t.Errorf("%s had %q", call.method, got)
				}
			}
		})
	}
}

// There is no client that could send it: also where plaintext itself was asked for.
func TestATokenNeverLeavesInPlaintext(t *testing.T) {
	source := func(context.Context) (string, error) { return "s3cret", nil }
	for _, target := range []string{
		"example.com:1", "10.0.0.1:1", "0.0.0.0:1", "[::]:1", "dns:///example.com:1", "passthrough:///127.0.0.1:1",
	} {
		for _, token := range []Option{WithToken("s3cret"), WithTokenSource(source)} {
			_, err := New(target, WithPlaintext(), token)
			if err == nil || !strings.Contains(err.Error(), "never sent in plaintext") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: got %v", target, err)
			}
		}
	}
}

// Not even where an option of gRPC's own turns TLS off behind our back.
func TestATokenStaysWhereTLSIsTurnedOff(t *testing.T) {
	server := start(t)
	_, port, err := net.SplitHostPort(server.address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New("0.0.0.0:"+port, WithToken("s3cret"), WithoutRetry(), WithDialOptions(grpc.WithTransportCredentials(insecureForTest{})))
	if err == nil {
		defer func() { _ = c.Close() }()
		_, err = c.Check(t.Context(), "")
	}
	if err == nil || len(server.seen()) != 0 {
		t.Errorf("got %v, and the server got %v", err, server.seen())
	}
}

// insecureForTest is plaintext.
type insecureForTest struct{}

func (insecureForTest) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, plaintextInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

func (insecureForTest) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}
func (i insecureForTest) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "plaintext"}
}
func (i insecureForTest) Clone() credentials.TransportCredentials { return i }
func (insecureForTest) OverrideServerName(string) error           { return nil }

type plaintextInfo struct{ credentials.CommonAuthInfo }

func (plaintextInfo) AuthType() string { return "plaintext" }

// 0.0.0.0 is no loopback address, yet leads to this machine: what a client says there can be looked at.
func TestAnotherMachineMeansTLS(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	heard := make(chan []byte, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			heard <- nil
			return
		}
		defer func() { _ = conn.Close() }()
		buffer := make([]byte, 4096)
		n, _ := conn.Read(buffer)
		heard <- buffer[:n]
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect(t, "0.0.0.0:"+port, WithToken("s3cret"), WithoutRetry()).Check(t.Context(), "")
	asError(t, err, codes.Unavailable)
	if got := <-heard; len(got) == 0 || got[0] != 0x16 || bytes.Contains(got, []byte("s3cret")) {
		t.Errorf("got %q, want a TLS handshake", got)
	}
}

func TestPlaintextElsewhereWhenAskedFor(t *testing.T) {
	_, port, err := net.SplitHostPort(start(t).address)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := connect(t, "0.0.0.0:"+port, WithPlaintext()).Check(t.Context(), ""); err != nil || got != Serving {
		t.Errorf("got %v, %v", got, err)
	}
}

// meter counts the bytes of a connection.
type meter struct {
	net.Conn
	sent, received *atomic.Int64
}

func (m meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	m.sent.Add(int64(n))
	return n, err
}

func (m meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.received.Add(int64(n))
	return n, err
}

func TestGzip(t *testing.T) {
	server := start(t)
	server.answer(func(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{Outputs: request.GetFeatures()}, nil
	})
	row := Features{"x": stringValue(strings.Repeat("concord ", 50_000))}
	for name, test := range map[string]struct {
		options []Option
		small   bool
	}{"on": {[]Option{WithGzip()}, true}, "off": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			var sent, received atomic.Int64
			dialer := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				return meter{conn, &sent, &received}, err
			})
			predict(t, connect(t, server.address, append(test.options, WithDialOptions(dialer))...), row)
			for _, n := range []int64{sent.Load(), received.Load()} {
				if small := n < 40_000; small != test.small {
					t.Errorf("%d bytes", n)
				}
			}
		})
	}
}

func TestOptionsThatContradictEachOther(t *testing.T) {
	own, other := newCertificates(t), newCertificates(t)
	rubbish := filepath.Join(t.TempDir(), "rubbish.pem")
	write(t, rubbish, []byte("rubbish"))
	for _, test := range []struct {
		options []Option
		want    string
	}{
		{[]Option{WithPlaintext(), WithTLS()}, "plaintext and TLS"},
		{[]Option{WithPlaintext(), WithCA(own.ca)}, "plaintext and TLS"},
		{[]Option{WithTimeout(-1)}, "timeout: expected at least 0"},
		{[]Option{WithMaxMessageBytes(0)}, "max message bytes: expected 1 to 2147483647, got 0"},
		{[]Option{WithToken("")}, "token: expected letters"},
		{[]Option{WithToken("s3cret\n")}, "a line break, perhaps"},
		{[]Option{WithCA(rubbish)}, "ca: expected certificates in PEM"},
		{[]Option{WithCA(rubbish + ".absent")}, "ca: open"},
		{[]Option{WithClientCertificate(own.cert, other.key)}, "client certificate and key"},
		{[]Option{WithClientCertificate(own.cert, "")}, "client certificate and key"},
	} {
		_, err := New("127.0.0.1:1", test.options...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	if _, err := New("localhost"); err == nil || !strings.Contains(err.Error(), "target: expected HOST:PORT") {
		t.Errorf("got %v", err)
	}
}

func TestABadTokenFromASourceIsNotSent(t *testing.T) {
	server := start(t)
	c := connect(t, server.address, WithTokenSource(func(context.Context) (string, error) { return "s3cret\r\n", nil }))
	_, err := c.Check(t.Context(), "")
	if err == nil || strings.Contains(err.Error(), "s3cret") || len(server.seen()) != 0 {
		t.Errorf("got %v, and the server got %v", err, server.seen())
	}
}
