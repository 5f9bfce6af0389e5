package spnego

import (
	"errors"
	"sync"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// TestConcurrent uses a context from many goroutines while it is exported. Each call
// is done before, or finds no context.
func TestConcurrent(t *testing.T) {
	r := newRig(t)
	acc, init := r.accept(r.acceptorP), r.initiate(r.initatorP, mutual)
	r.establish(init, acc)
	var wg sync.WaitGroup
	start := make(chan struct{})
	calls := []func() error{
		func() error { _, err := acc.GetMIC([]byte("message"), 0); return err },
		func() error { _, _, err := acc.Wrap([]byte("message"), true, 0); return err },
		func() error { _, err := acc.Inquire(); return err },
		func() error { _, err := acc.ExpiresAt(); return err },
		func() error { _ = acc.ContinueNeeded(); return nil },
		func() error {
			if _, _, err := acc.Continue(nil); !errors.Is(err, gssapi.ErrNoContext) && !errors.Is(err, gssapi.ErrFailure) {
				return errors.New("a second negotiation began")
			}
			return nil
		},
	}
	errs := make(chan error, 100*len(calls))
	for _, call := range calls {
		for range 4 {
			wg.Go(func() {
				<-start
				for range 25 {
					errs <- call()
				}
			})
		}
	}
	var plain []byte
	var err error
	wg.Go(func() {
		<-start
		plain, err = acc.Export()
	})
	close(start)
	wg.Wait()
	close(errs)
	require.NoError(t, err)
	for err := range errs {
		if err != nil {
			require.ErrorIs(t, err, gssapi.ErrNoContext)
		}
	}
	_, err = r.acceptorP.ImportSecContext(plain)
	require.NoError(t, err)
}
