package keyring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// With no memory to lock at all there is an error at once.
func TestLimitZero(t *testing.T) {
	if !run(t, shmDir(t, true), apart.PlainUser) {
		return
	}
	setLimit(t, 0)
	for name, open := range map[string]func() (*Ring, error){
		"Open": func() (*Ring, error) { return Open(os.Getenv(dirVariable), nil) },
		"New":  func() (*Ring, error) { return New(nil) },
	} {
		start := time.Now()
		_, err := open()
		require.Less(t, time.Since(start), 100*time.Millisecond, name)
		require.ErrorIs(t, err, memsafe.ErrLimit, name)
		require.ErrorContains(t, err, "RLIMIT_MEMLOCK allows 0 KiB", name)
		require.ErrorContains(t, err, "ulimit -l", name)
	}
}

// With little, the host key and 50 secrets fit, in either order, on either
// backing, however many processors there are. What does not fit gets an error
// that names limit and remedy, and harms nothing.
func TestLimitSmall(t *testing.T) {
	for _, kib := range []int{16, 64} {
		for _, first := range []string{"ring", "pool"} {
			for _, backing := range []string{"memfd_secret", "memguard"} {
				for _, processors := range []int{1, 64} {
					t.Run(fmt.Sprint(kib, " KiB ", first, " first ", backing, " ", processors), func(t *testing.T) {
						more := func(cmd *exec.Cmd) {
							apart.PlainUser(cmd)
							cmd.Env = append(cmd.Env, fmt.Sprint("GOMAXPROCS=", processors))
						}
						if !run(t, shmDir(t, true), more) {
							return
						}
						setLimit(t, uint64(kib)<<10)
						if backing == "memguard" {
							apart.RefuseMemfdSecret(t)
							st, err := memsafe.Report()
							require.NoError(t, err)
							require.NotEqual(t, "memfd_secret", st.Backing)
						}
						smallLimit(t, first == "pool", kib)
					})
				}
			}
		}
	}
}

func smallLimit(t *testing.T, poolFirst bool, kib int) {
	var pool *memsafe.Pool
	var err error
	if poolFirst {
		pool, err = memsafe.NewPool(0)
		require.NoError(t, err)
	}
	r := openRing(t, os.Getenv(dirVariable), nil)
	e := current(t, r)
	key := mustDerive(t, e)
	if !poolFirst {
		pool, err = memsafe.NewPool(0)
		require.NoError(t, err)
	}
	var secrets []*memsafe.Secret
	for i := range 50 {
		s, err := pool.Alloc(64)
		require.NoError(t, err)
		copy(s.Bytes(), bytes.Repeat([]byte{byte(i + 1)}, 64))
		secrets = append(secrets, s)
	}

	start := time.Now()
	for i := 0; ; i++ { // each epoch takes a page
		err := r.Rotate()
		if err != nil {
			require.ErrorIs(t, err, memsafe.ErrLimit)
			require.ErrorContains(t, err, fmt.Sprintf("RLIMIT_MEMLOCK allows %d KiB", kib))
			require.ErrorContains(t, err, "ulimit -l")
			break
		}
		require.Less(t, i, kib/4)
	}
	_, err = Open(os.Getenv(dirVariable), nil)
	require.ErrorIs(t, err, memsafe.ErrLimit)
	require.Less(t, time.Since(start), time.Second)

	require.Equal(t, key, mustDerive(t, e), "the host key is not what it was")
	for i, s := range secrets {
		require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 64), s.Bytes())
	}
}

// Where only one epoch fits, rotation by age waits until nothing is outstanding,
// and then goes on: the old one's page makes room for the next.
func TestLimitRotates(t *testing.T) {
	if !run(t, shmDir(t, true), apart.PlainUser) {
		return
	}
	r := openRing(t, os.Getenv(dirVariable), &Options{Age: time.Second})
	e, err := r.Current()
	require.NoError(t, err)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	st, err := memsafe.Report()
	require.NoError(t, err)
	setLimit(t, uint64(st.Locked))
	require.ErrorIs(t, r.Rotate(), memsafe.ErrLimit) // the control: there is no room

	e.makeOlder(time.Second)
	same := current(t, r)
	require.Equal(t, e.ID(), same.ID(), "an outstanding token was given up")
	require.NoError(t, e.ClaimFresh(l.Slot))
	id := e.ID()
	e.Release()
	same.Release()
	for range 3 {
		next, err := r.Current()
		require.NoError(t, err)
		require.NotEqual(t, id, next.ID())
		_, err = next.Reserve(time.Millisecond)
		require.NoError(t, err)
		id = next.ID()
		next.makeOlder(3 * time.Second) // older than the age, and the token has expired
		next.Release()
	}
}

// A process at its limit meets an error while another's new epoch does not fit,
// and adopts it as soon as the old one's page is free.
func TestLimitThenRoom(t *testing.T) {
	dir := shmDir(t, true)
	if !run(t, dir, apart.PlainUser) {
		return
	}
	dir = os.Getenv(dirVariable)
	other := openRing(t, dir, nil)
	r := openRing(t, dir, nil)
	e, err := r.Current()
	require.NoError(t, err)
	require.NoError(t, other.Rotate())
	st, err := memsafe.Report()
	require.NoError(t, err)
	setLimit(t, uint64(st.Locked))

	_, err = r.Current()
	require.ErrorIs(t, err, memsafe.ErrLimit)
	_, err = r.Current()
	require.ErrorIs(t, err, memsafe.ErrLimit, "the directory counted as read")
	require.NoError(t, other.Retire(e.ID()))
	e.Release()
	require.Equal(t, current(t, other).ID(), current(t, r).ID())
}

// A hardened process of a plain user still makes and finds epochs.
func TestHardened(t *testing.T) {
	if !run(t, shmDir(t, true), apart.PlainUser) {
		return
	}
	require.NoError(t, memsafe.Harden())
	r := openRing(t, os.Getenv(dirVariable), nil)
	e := current(t, r)
	require.Equal(t, e.ID(), current(t, openRing(t, os.Getenv(dirVariable), nil)).ID())
	require.NoError(t, r.Rotate())
}
