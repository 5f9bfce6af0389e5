package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

const (
	rotatedLifetime = 4 * time.Second
	rotatedPace     = 100 * time.Millisecond // between two tokens of a worker
)

// rotatedVariable is how long a worker seals.
const rotatedVariable = "AGENT_TEST_SEALS"

// A tale is what a worker of the rotation test has seen.
type tale struct {
	Opened int
	Late   int // opened behind their end, since the machine was busy
	Ended  int // reservations whose key ended before they were sealed: no token was made
	Lost   []string
	Epochs [][16]byte // of the tokens that it was given
}

// roleRotated seals tokens and gives them to the next worker, and opens those
// of the one before at any time of their lives.
func roleRotated(path string) error {
	length, err := time.ParseDuration(os.Getenv(rotatedVariable))
	if err != nil {
		return err
	}
	pool, err := memsafe.NewPool(64 << 10) // a hundred of them are one user's
	if err != nil {
		return err
	}
	c, err := (&Dialer{Pool: pool}).Dial(path)
	if err != nil {
		return err
	}
	sealed, ended := make(chan error, 1), 0
	go func() {
		next := os.NewFile(3, "next")
		var err error
		ended, err = sealFor(length, c, next)
		sealed <- errors.Join(err, next.Close())
	}()
	t, err := openAll(c, os.Stdin)
	err = errors.Join(err, <-sealed)
	t.Ended = ended
	if err := errors.Join(err, c.Close(), pool.Close()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(t)
}

func sealFor(length time.Duration, c *Client, next io.Writer) (ended int, err error) {
	time.Sleep(rand.N(rotatedPace)) // not all at a time
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(rotatedPace) {
		req := testRequest
		req.Lifetime = rotatedLifetime
		r, err := c.Reserve(req)
		if err != nil {
			return ended, err
		}
		b, err := r.Seal([]byte("plain"))
		if errors.Is(err, seal.ErrUnavailable) {
			ended++
			continue
		}
		if err != nil {
			return ended, err
		}
		if _, err := next.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return ended, err
		}
	}
	return ended, nil
}

func openAll(c *Client, before io.Reader) (t tale, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	defer all.Wait()
	epochs := map[[16]byte]bool{}
	for {
		var size [2]byte
		if _, err := io.ReadFull(before, size[:]); err == io.EOF {
			break
		} else if err != nil {
			return t, err
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(before, b); err != nil {
			return t, err
		}
		head, err := seal.Inspect(b)
		if err != nil {
			return t, err
		}
		if !epochs[head.Epoch] {
			epochs[head.Epoch] = true
			t.Epochs = append(t.Epochs, head.Epoch)
		}
		all.Go(func() {
			time.Sleep(rand.N(rotatedLifetime * 3 / 4))
			secret, err := c.Open(b, testFormat)
			mu.Lock()
			defer mu.Unlock()
			now, clockErr := c.clock.Now()
			switch {
			case err == nil:
				secret.Wipe()
				t.Opened++
			case errors.Is(err, seal.ErrExpired) && clockErr == nil && now >= head.Expires:
				t.Late++
			default:
				t.Lost = append(t.Lost, err.Error())
			}
		})
	}
	all.Wait()
	return t, nil
}

// underLoad has workers, each a process, seal and open while change happens to
// the keys each second, and returns what they have seen together.
func underLoad(t *testing.T, workers int, length time.Duration, change func(*Client)) (sum tale) {
	t.Helper()
	policy, err := ParsePolicy(strings.NewReader("quota everyone outstanding 8192"))
	require.NoError(t, err)
	in := serveHere(t, &Options{Policy: policy, MaxLifetime: rotatedLifetime})
	first, last, err := os.Pipe() // the workers are a ring
	require.NoError(t, err)
	from := first
	var ring []*process
	for i := range workers {
		r, to := first, last
		if i < workers-1 {
			r, to, err = os.Pipe()
			require.NoError(t, err)
		}
		ring = append(ring, spawn(t, "rotated", in.path, func(cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, rotatedVariable+"="+length.String())
			cmd.Stdin, cmd.ExtraFiles = from, []*os.File{to}
		}))
		require.NoError(t, to.Close())
		if i > 0 {
			require.NoError(t, from.Close())
		}
		from = r
	}
	require.NoError(t, first.Close())
	admin := in.dial(t)
	done := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-done:
				return
			case <-tick.C:
				change(admin)
			}
		}
	})
	epochs := map[[16]byte]bool{}
	for _, p := range ring {
		var one tale
		line := p.line(t)
		require.NoError(t, json.Unmarshal([]byte(line), &one), line)
		sum.Opened += one.Opened
		sum.Late += one.Late
		sum.Ended += one.Ended
		sum.Lost = append(sum.Lost, one.Lost...)
		for _, e := range one.Epochs {
			epochs[e] = true
		}
	}
	close(done)
	changing.Wait()
	for e := range epochs {
		sum.Epochs = append(sum.Epochs, e)
	}
	return sum
}

// While keys rotate each second, a hundred workers, each a process, open tokens
// at any time of their lives, and lose none.
func TestRotationUnderLoad(t *testing.T) {
	workers, length := 100, 6*time.Second
	if testing.Short() {
		workers, length = 20, 3*time.Second
	}
	sum := underLoad(t, workers, length, func(admin *Client) {
		if err := admin.Rotate(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d workers opened %d tokens, sealed under %d keys; %d too late", workers, sum.Opened, len(sum.Epochs), sum.Late)
	require.Empty(t, sum.Lost)
	require.Zero(t, sum.Ended, "a rotation ends no reservation")
	require.Greater(t, len(sum.Epochs), int(length/time.Second)/2)
	require.Greater(t, sum.Opened, workers*int(length/rotatedPace)/4)
}

// The control of the test above: keys that end before their tokens do are
// noticed by those who open.
func TestLostInRotationIsSeen(t *testing.T) {
	sum := underLoad(t, 4, 2*time.Second, func(admin *Client) {
		st, err := admin.Account()
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range st.Keys {
			if err := admin.Retire(e.ID); err != nil {
				t.Error(err)
			}
		}
	})
	require.NotEmpty(t, sum.Lost)
	require.True(t, slices.ContainsFunc(sum.Lost, func(text string) bool { return strings.HasPrefix(text, seal.ErrDefective.Error()) }))
}
