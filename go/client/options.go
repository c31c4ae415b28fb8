// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
)

// DefaultTimeout bounds a call whose context has no deadline.
const DefaultTimeout = 60 * time.Second

// DefaultMaxMessageBytes is the largest message sent or received, 100 MiB as the servers' default.
const DefaultMaxMessageBytes = 100 << 20

// What is worth sending again without asking the caller: only what was not processed.
//
// UNAVAILABLE: a Concord server sends it before it looks at the request (loading, draining), and gRPC where no connection is to
// be had. gRPC also makes it of a connection that broke while the answer was awaited. Then the server may have computed it, but
// these methods only read, and the same request gets the same answer, so sending it twice is harmless.
//
// RESOURCE_EXHAUSTED is not listed. gRPC's pushback (grpc-retry-pushback-ms) can only delay or forbid the retry of a listed code;
// so listing it for a full queue's sake would also resend messages that are too large, and send more to a server without
// pushback that has just said it has too much. The caller finds RetryDelay on the error and decides.
//
// Everything else says that the request was judged (INVALID_ARGUMENT, NOT_FOUND, ...), ran (INTERNAL) or has no time left.
//
// Five attempts wait some 1.5 s together; the deadline ends them all. Throttling stops retries on a connection after about a
// hundred failures in a row, so that clients don't multiply an outage.
const serviceConfig = `{
  "methodConfig": [{
    "name": [{"service": "inference.v1.InferenceService"}, {"service": "inference.v1.ModelCatalogService"}],
    "retryPolicy": {
      "maxAttempts": 5,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }],
  "retryThrottling": {"maxTokens": 200, "tokenRatio": 0.1}
}`

// Option is a setting of a client.
type Option func(*settings)

type settings struct {
	plaintext         bool
	tls               bool
	tlsConfig         *tls.Config
	caFile            string
	certFile, keyFile string
	serverName        string
	token             func(context.Context) (string, error)
	fixedToken        *string
	gzip              bool
	retry             bool
	timeout           time.Duration
	maxMessageBytes   int
	extra             []grpc.DialOption
}

func defaults() settings {
	return settings{retry: true, timeout: DefaultTimeout, maxMessageBytes: DefaultMaxMessageBytes}
}

// WithPlaintext allows plaintext to an address that is not loopback.
func WithPlaintext() Option { return func(s *settings) { s.plaintext = true } }

// WithTLS asks for TLS, on loopback too. The other TLS options imply it.
func WithTLS() Option { return func(s *settings) { s.tls = true } }

// WithTLSConfig asks for TLS as config says, a copy of which is kept.
func WithTLSConfig(config *tls.Config) Option {
	return func(s *settings) { s.tls, s.tlsConfig = true, config.Clone() }
}

// WithCA names the PEM file of the authorities that may have signed the server's certificate, instead of those that this machine
// trusts.
func WithCA(file string) Option { return func(s *settings) { s.tls, s.caFile = true, file } }

// WithClientCertificate names the PEM files of this client's certificate chain and its private key, for servers that ask for
// one (mTLS).
func WithClientCertificate(certFile, keyFile string) Option {
	return func(s *settings) { s.tls, s.certFile, s.keyFile = true, certFile, keyFile }
}

// WithServerName sets the name that the server's certificate is for, where it is not the target's host.
func WithServerName(name string) Option {
	return func(s *settings) { s.tls, s.serverName = true, name }
}

// WithToken sends a bearer token with each call. It is never sent in plaintext to another machine: New refuses that, also with
// WithPlaintext.
func WithToken(token string) Option {
	return func(s *settings) {
		s.fixedToken = &token
		s.token = func(context.Context) (string, error) { return token, nil }
	}
}

// WithTokenSource is WithToken for tokens that change: source gives the current one before each call.
func WithTokenSource(source func(context.Context) (string, error)) Option {
	return func(s *settings) { s.token, s.fixedToken = source, nil }
}

// WithGzip compresses requests, which asks for compressed answers too.
func WithGzip() Option { return func(s *settings) { s.gzip = true } }

// WithTimeout bounds each call whose context has no deadline, retries and look-ups included; 0 is without end. Default
// DefaultTimeout.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithoutRetry sends every call once. Otherwise one that was not processed (UNAVAILABLE) is repeated up to four times within
// about 1.5 s.
func WithoutRetry() Option { return func(s *settings) { s.retry = false } }

// WithMaxMessageBytes sets the largest message sent or received. Default DefaultMaxMessageBytes.
func WithMaxMessageBytes(n int) Option { return func(s *settings) { s.maxMessageBytes = n } }

// WithDialOptions adds options of grpc.NewClient: interceptors, stats handlers, another dialer. They come last and win.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.extra = append(s.extra, options...) }
}

func (s *settings) dialOptions(target string) ([]grpc.DialOption, error) {
	loopback, err := isLoopback(target)
	if err != nil {
		return nil, err
	}
	if s.plaintext && s.tls {
		return nil, errors.New("plaintext and TLS: expected one of them")
	}
	if s.timeout < 0 {
		return nil, fmt.Errorf("timeout: expected at least 0, got %v", s.timeout)
	}
	if s.maxMessageBytes < 1 || s.maxMessageBytes > math.MaxInt32 {
		return nil, fmt.Errorf("max message bytes: expected 1 to %d, got %d", math.MaxInt32, s.maxMessageBytes)
	}
	plaintext := s.plaintext || (loopback && !s.tls)
	call := []grpc.CallOption{
		grpc.MaxCallSendMsgSize(s.maxMessageBytes),
		grpc.MaxCallRecvMsgSize(s.maxMessageBytes),
		// By default gRPC doesn't retry what is larger than 256 KiB.
		grpc.MaxRetryRPCBufferSize(s.maxMessageBytes),
	}
	if s.gzip {
		call = append(call, grpc.UseCompressor(gzip.Name))
	}
	options := []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		// After an outage the next try is seconds away, not two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 20 * time.Second,
		}),
		// A name server may not set the retry policy.
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("concord-go"),
	}
	if s.retry {
		options = append(options, grpc.WithDefaultServiceConfig(serviceConfig))
	}
	if loopback {
		// What stays on this machine must not go through a proxy that the environment names.
		options = append(options, grpc.WithNoProxy())
	}
	if s.token != nil {
		if plaintext && !loopback {
			return nil, fmt.Errorf("token: it is never sent in plaintext to another machine (%s); use TLS", target)
		}
		if s.fixedToken != nil && !tokenGrammar.MatchString(*s.fixedToken) {
			return nil, errBadToken
		}
		bearer := bearerToken{source: s.token, plaintext: plaintext}
		call = append(call, grpc.PerRPCCredentials(bearer))
	}
	transport := insecure.NewCredentials()
	if !plaintext {
		config, err := s.clientTLS()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	options = append(options, grpc.WithTransportCredentials(transport), grpc.WithDefaultCallOptions(call...))
	return append(options, s.extra...), nil
}

func (s *settings) clientTLS() (*tls.Config, error) {
	config := s.tlsConfig
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if s.serverName != "" {
		config.ServerName = s.serverName
	}
	if s.caFile != "" {
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: expected certificates in PEM, got %s", s.caFile)
		}
	}
	if s.certFile != "" || s.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// bearerToken puts the token into each call's metadata.
type bearerToken struct {
	source    func(context.Context) (string, error)
	plaintext bool // on loopback only
}

// RFC 6750; in particular no line break at the end, which a file or command adds easily.
var tokenGrammar = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// Without the token itself: errors end up in logs.
var errBadToken = errors.New("token: expected letters, digits and ._~+/-, with = at the end only (a line break, perhaps?)")

func (b bearerToken) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.source(ctx)
	if err != nil {
		return nil, err
	}
	if !tokenGrammar.MatchString(token) {
		return nil, errBadToken
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity makes gRPC itself refuse to send the token in plaintext, should an option of WithDialOptions ask for that.
func (b bearerToken) RequireTransportSecurity() bool { return !b.plaintext }
