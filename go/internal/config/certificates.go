// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
)

// certificates makes the TLS configuration of the gRPC listener, or nothing for plaintext.
func certificates(m *serverconfigv1.ServerConfig) (*tls.Config, error) {
	switch {
	case m.GetTlsCert() == "" && m.GetTlsKey() == "":
		if m.GetTlsClientCa() != "" {
			return nil, errors.New("tls_client_ca: expected tls_cert and tls_key with it, got neither")
		}
		return nil, nil
	case m.GetTlsCert() == "":
		return nil, errors.New("tls_key: expected tls_cert with it, got nothing")
	case m.GetTlsKey() == "":
		return nil, errors.New("tls_cert: expected tls_key with it, got nothing")
	case m.GetPlaintext():
		return nil, errors.New("plaintext: expected no tls_cert with it, got one")
	}
	chain, err := readPEM("tls_cert", m.GetTlsCert(), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	key, err := readPEM("tls_key", m.GetTlsKey(), "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("tls_key: expected the private key of tls_cert's certificate: %s", oneLine(err.Error()))
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if m.GetTlsClientCa() != "" {
		authorities, err := readPEM("tls_client_ca", m.GetTlsClientCa(), "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("tls_client_ca: expected PEM certificates, got %q without a readable one", m.GetTlsClientCa())
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// readPEM reads a file whose first block of the type can be parsed.
func readPEM(field, name, block string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: expected a file that can be read, got %q", field, name)
	}
	for rest := data; ; {
		var found *pem.Block
		if found, rest = pem.Decode(rest); found == nil {
			return nil, fmt.Errorf("%s: expected PEM with a %s, got %q without one", field, block, name)
		}
		if found.Type == "CERTIFICATE" && block == found.Type {
			if _, err := x509.ParseCertificate(found.Bytes); err != nil {
				return nil, fmt.Errorf("%s: expected a certificate that can be parsed, got %q with another", field, name)
			}
			return data, nil
		}
		if block != "CERTIFICATE" && len(found.Type) >= len(block) && found.Type[len(found.Type)-len(block):] == block {
			return data, nil
		}
	}
}
