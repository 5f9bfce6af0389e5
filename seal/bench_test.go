package seal_test

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// plainSize is what MIT exports of an established AES-256 acceptor context.
const plainSize = 1165

// BenchmarkCycle is the whole way of a token: reserve, seal, open and claim,
// over a register in a file, as processes share it. internal/bench compares it
// with MIT's plain export and import.
func BenchmarkCycle(b *testing.B) {
	for _, st := range suite.All() {
		b.Run(st.String(), func(b *testing.B) {
			h, _ := benchHost(b, &seal.Options{Suite: st.String()})
			plain := make([]byte, plainSize)
			_, _ = rand.Read(plain)
			req := seal.Request{Format: "mit/2/amd64", Mechanism: make([]byte, 9)}
			b.ReportAllocs()
			for b.Loop() {
				sealed := sealOne(b, h, req, plain)
				opened, err := h.Open(sealed, req.Format)
				if err != nil {
					b.Fatal(err)
				}
				opened.Wipe()
			}
		})
	}
}

// BenchmarkOpen is open and claim alone, with few and with many tokens
// outstanding in the register.
func BenchmarkOpen(b *testing.B) {
	for _, outstanding := range []int{1_000, 10_000_000} {
		b.Run(fmt.Sprintf("outstanding=%d", outstanding), func(b *testing.B) {
			h, dir := benchHost(b, &seal.Options{Capacity: outstanding + batch})
			fill(b, h, dir, outstanding)
			req := seal.Request{Format: "mit/2/amd64", Mechanism: make([]byte, 9)}
			plain := make([]byte, plainSize)
			_, _ = rand.Read(plain)
			var tokens [][]byte
			b.ReportAllocs()
			for b.Loop() {
				if len(tokens) == 0 {
					b.StopTimer()
					for range batch {
						tokens = append(tokens, sealOne(b, h, req, plain))
					}
					b.StartTimer()
				}
				opened, err := h.Open(tokens[0], req.Format)
				if err != nil {
					b.Fatal(err)
				}
				opened.Wipe()
				tokens = tokens[1:]
			}
		})
	}
}

// batch is how many tokens are sealed between two stretches of opening.
const batch = 2_000

func sealOne(b *testing.B, h *seal.Host, req seal.Request, plain []byte) []byte {
	r, err := h.Reserve(req)
	if err != nil {
		b.Fatal(err)
	}
	sealed, err := r.Seal(plain)
	if err != nil {
		b.Fatal(err)
	}
	return sealed
}

// fill makes n tokens outstanding. The register does not know that they are not sealed.
func fill(b *testing.B, h *seal.Host, dir string, n int) {
	if err := h.Rotate(); err != nil { // it makes the first key, of the host's capacity
		b.Fatal(err)
	}
	ring, err := keyring.Open(dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer ring.Close()
	e, err := ring.Current()
	if err != nil {
		b.Fatal(err)
	}
	defer e.Release()
	for range n {
		if _, err := e.Reserve(e.MaxLifetime()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTicket is the peer of the same language: a TLS session ticket of a
// state of about the same bytes, both ways.
func BenchmarkTicket(b *testing.B) {
	config := &tls.Config{}
	var key [32]byte
	_, _ = rand.Read(key[:])
	config.SetSessionTicketKeys([][32]byte{key})
	extra := make([]byte, plainSize)
	_, _ = rand.Read(extra)
	state, err := ticketState(extra)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ticket, err := config.EncryptTicket(tls.ConnectionState{}, state)
		if err != nil {
			b.Fatal(err)
		}
		if opened, err := config.DecryptTicket(ticket, tls.ConnectionState{}); err != nil || opened == nil {
			b.Fatal("ticket does not open: ", err)
		}
	}
}

// ticketState makes a TLS 1.2 session state whose bytes are about as many as
// extra, by the format of crypto/tls: what EncryptTicket wants to be given.
func ticketState(extra []byte) (*tls.SessionState, error) {
	state := []byte{
		0x03, 0x03, // TLS 1.2
		1,          // server
		0xc0, 0x2f, // ECDHE-RSA-AES128-GCM-SHA256
		0, 0, 0, 0, 0x65, 0, 0, 0, // created
		48,
	}
	state = append(state, make([]byte, 48)...) // master secret
	state = append(state,
		0, 0, 0, // extra
		1,       // extended master secret
		0,       // early data
		0, 0, 0, // peer certificates
		0, 0, 0, // verified chains
		0, 0, // curve
	)
	s, err := tls.ParseSessionState(state)
	if err != nil {
		return nil, err
	}
	s.Extra = [][]byte{extra[:len(extra)-len(state)]}
	return s, nil
}

func benchHost(b *testing.B, o *seal.Options) (*seal.Host, string) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	o.Directory = filepath.Join(dir, "ring")
	if o.Pool, err = memsafe.NewPool(64 << 10); err != nil {
		b.Fatal(err)
	}
	h, err := seal.OpenHost(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	return h, o.Directory
}
