package krb5_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
)

// TestExportUnderUse: 64 goroutines use a context while it is exported. Each
// message went out before or answers GSS_S_NO_CONTEXT; after the importer has
// gone on, the peer has seen every sequence number once.
func TestExportUnderUse(t *testing.T) {
	for round := range 20 {
		b := newBench(t, krb5.Config{})
		init, acc := b.establish(t, allFlags)
		var mu sync.Mutex
		var sent [][]byte
		var wg sync.WaitGroup
		started := make(chan struct{}, 64)
		for g := range 64 {
			wg.Go(func() {
				for i := 0; ; i++ {
					tok, _, err := acc.Wrap(fmt.Appendf(nil, "%d/%d", g, i), true, 0)
					if err != nil {
						if !errors.Is(err, gssapi.ErrNoContext) {
							t.Error(err)
						}
						if i == 0 {
							started <- struct{}{}
						}
						return
					}
					mu.Lock()
					sent = append(sent, tok)
					mu.Unlock()
					if i == 0 {
						started <- struct{}{}
					}
				}
			})
		}
		for range 1 + round*3 { // at another moment each round
			<-started
		}
		tok, err := acc.Export()
		require.NoError(t, err)
		wg.Wait()
		next, err := b.p.ImportSecContext(tok)
		require.NoError(t, err)
		last, _, err := next.Wrap([]byte("importer"), true, 0)
		require.NoError(t, err)

		seqs := make(map[uint64]bool)
		low, high := ^uint64(0), uint64(0)
		for _, tok := range append(sent, last) {
			seq := sequence(tok)
			require.False(t, seqs[seq], "number %d twice", seq)
			seqs[seq] = true
			low, high = min(low, seq), max(high, seq)
		}
		require.Equal(t, uint64(len(seqs)-1), high-low, "holes")
		require.Equal(t, sequence(last), high, "the importer goes on where the exporter ended")
		require.Equal(t, firstExpected(t, init, append(sent, last)), low)
	}
}

// sequence reads SND_SEQ (RFC 4121 section 4.2.6.2).
func sequence(tok []byte) (n uint64) {
	for _, b := range tok[8:16] {
		n = n<<8 | uint64(b)
	}
	return n
}

// firstExpected unwraps all tokens in whatever order they are, and returns the
// number of the one that was in sequence first.
func firstExpected(t *testing.T, peer gssapi.SecContext, toks [][]byte) uint64 {
	t.Helper()
	bySeq := make(map[uint64][]byte)
	low := ^uint64(0)
	for _, tok := range toks {
		bySeq[sequence(tok)] = tok
		low = min(low, sequence(tok))
	}
	for n := low; bySeq[n] != nil; n++ {
		_, _, _, err := peer.Unwrap(bySeq[n])
		require.NoError(t, err, "in sequence")
	}
	_, _, _, err := peer.Unwrap(bySeq[low])
	require.Error(t, err, "a number that was seen")
	return low
}

// TestOneExport: of many goroutines that export one context, one gets a token.
func TestOneExport(t *testing.T) {
	b := newBench(t, krb5.Config{})
	_, acc := b.establish(t, allFlags)
	var wg sync.WaitGroup
	got := make(chan []byte, 32)
	for range 32 {
		wg.Go(func() {
			tok, err := acc.Export()
			if err == nil {
				got <- tok
			} else if !errors.Is(err, gssapi.ErrNoContext) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, got, 1)
}

// TestDeleteUnderUse: deleting waits for messages under way and ends the rest.
func TestDeleteUnderUse(t *testing.T) {
	b := newBench(t, krb5.Config{})
	_, acc := b.establish(t, allFlags)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				if _, err := acc.GetMIC([]byte("m"), 0); err != nil {
					if !errors.Is(err, gssapi.ErrNoContext) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	_, err := acc.Delete()
	require.NoError(t, err)
	wg.Wait()
}

// TestManyHandshakes: one provider and one pair of credentials serve many
// goroutines at once.
func TestManyHandshakes(t *testing.T) {
	b := newBench(t, krb5.Config{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if err := quietHandshake(b); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func quietHandshake(b *bench) error {
	target, err := b.p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	if err != nil {
		return err
	}
	init, err := b.p.InitSecContext(target, gssapi.WithInitiatorCredential(b.initiator), gssapi.WithInitiatorFlags(allFlags))
	if err != nil {
		return err
	}
	acc, err := b.p.AcceptSecContext(gssapi.WithAcceptorCredential(b.acceptor))
	if err != nil {
		return err
	}
	var tok []byte
	for _, sc := range []gssapi.SecContext{init, acc, init} {
		if tok, _, err = sc.Continue(tok); err != nil {
			return err
		}
	}
	_, err1 := init.Delete()
	_, err2 := acc.Delete()
	return errors.Join(err1, err2)
}
