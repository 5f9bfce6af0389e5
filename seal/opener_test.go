package seal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// brokenVar makes the opener's claim load-then-store.
const brokenVar = "SEALCTX_SEAL_TEST_BROKEN"

// openers is the number of goroutines in each process that open.
const openers = 4

// Many processes open the same tokens at once, over a register so small that
// its slots are used again and again: each token opens exactly once.
func TestOpenedOnce(t *testing.T) {
	processes, tokens := 16, 100_000
	if underRace || testing.Short() {
		processes, tokens = 4, 500
	}
	for i, n := range openAll(t, processes, tokens, false) {
		require.Equal(t, 1, n, "token %d", i)
	}

	// The control: with a claim that is load-then-store some opens twice.
	most := 0
	for _, n := range openAll(t, processes, min(tokens, 2000), true) {
		require.NotZero(t, n)
		most = max(most, n)
	}
	require.Greater(t, most, 1)
}

// openAll seals tokens in batches that fill the register, has each process open
// all of a batch, and returns how often each was opened.
func openAll(t *testing.T, processes, tokens int, broken bool) []int {
	const batch = 512 // of 1,024 slots: each is used about 100 times
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, &keyring.Options{Capacity: batch})
	type opener struct {
		in  io.WriteCloser
		out *bufio.Reader
	}
	var all []opener
	for range processes {
		cmd := child(t, "opener", dirVar+"="+dir, fmt.Sprintf("%s=%t", brokenVar, broken))
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		all = append(all, opener{in, bufio.NewReader(out)})
		t.Cleanup(func() {
			require.NoError(t, in.Close())
			require.NoError(t, cmd.Wait())
		})
	}
	var counts []int
	for len(counts) < tokens {
		var message []byte
		for i := range batch {
			sealed := sealToken(t, h, testRequest, binary.BigEndian.AppendUint32(nil, uint32(len(counts)+i)))
			message = append(binary.BigEndian.AppendUint32(message, uint32(len(sealed))), sealed...)
		}
		_, err := h.Reserve(testRequest)
		require.ErrorIs(t, err, keyring.ErrFull)
		for _, o := range all {
			_, err := o.in.Write(append(binary.BigEndian.AppendUint32(nil, batch), message...))
			require.NoError(t, err)
		}
		for _, o := range all { // each has read its batch
			_, err := o.out.ReadByte()
			require.NoError(t, err)
		}
		for _, o := range all {
			_, err := o.in.Write([]byte{'g'})
			require.NoError(t, err)
		}
		sum := make([]int, batch)
		for _, o := range all {
			opened := make([]byte, batch)
			_, err := io.ReadFull(o.out, opened)
			require.NoError(t, err)
			for i, n := range opened {
				sum[i] += int(n)
			}
		}
		counts = append(counts, sum...)
		require.Zero(t, outstanding(t, h))
	}
	return counts
}

// openerChild opens batch after batch and answers how often each token opened
// in this process.
func openerChild() {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	childCheck(err)
	h, err := newHost(ring, nil)
	childCheck(err)
	open := h.Open
	if os.Getenv(brokenVar) == "true" {
		open = func(b []byte, _ ...string) (*memsafe.Secret, error) {
			return loadThenStore(h, b, func() { time.Sleep(10 * time.Microsecond) })
		}
	}
	in := bufio.NewReader(os.Stdin)
	for {
		var n uint32
		if err := binary.Read(in, binary.BigEndian, &n); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			childFailed(err)
		}
		tokens := make([][]byte, n)
		for i := range tokens {
			var size uint32
			childCheck(binary.Read(in, binary.BigEndian, &size))
			tokens[i] = make([]byte, size)
			_, err := io.ReadFull(in, tokens[i])
			childCheck(err)
		}
		_, err := os.Stdout.Write([]byte{'r'})
		childCheck(err)
		_, err = in.ReadByte()
		childCheck(err)
		_, err = os.Stdout.Write(openBatch(open, tokens))
		childCheck(err)
	}
}

func openBatch(open func([]byte, ...string) (*memsafe.Secret, error), tokens [][]byte) []byte {
	counts := make([]atomic.Int32, len(tokens))
	var wg sync.WaitGroup
	for range openers {
		wg.Go(func() {
			for i, b := range tokens {
				s, err := open(b, testFormat)
				switch {
				case err == nil:
					counts[i].Add(1)
					s.Wipe()
				case err != ErrSpent:
					childFailed(err)
				}
			}
		})
	}
	wg.Wait()
	opened := make([]byte, len(tokens))
	for i := range counts {
		opened[i] = byte(counts[i].Load())
	}
	runtime.KeepAlive(tokens)
	return opened
}
