package handoff

import (
	"context"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
)

const (
	benchWorkers = 8   // with fewer, cores that wait for others are part of the time
	benchBatch   = 100 // handoffs in one rival's turn
)

// A rival is one way to hand contexts over.
type rival struct {
	name   string
	accept gssapi.Provider // of the contexts that it hands over
	send   func(gssapi.SecContext, net.Conn) error
}

// BenchmarkHandoffs hands over contexts with their connections to worker
// processes: sealed and through the agent, and the same server, pool and time
// limits included, passing plain tokens in the same exchange. A bare loop around
// that exchange tells what the pool takes. The rivals are measured in turn, batch
// by batch, and each has a unit of its own: the time of one of its handoffs.
func BenchmarkHandoffs(b *testing.B) {
	h := newHouse(b)
	_, socket := h.startAgent()
	client, err := agent.Dial(socket)
	require.NoError(b, err)
	defer client.Close() //nolint:errcheck // of the benchmark
	viaAgent := asking(socket)
	rivals := []rival{
		{"plain", h.mech, h.plainPool()},
		{"bare", h.mech, h.bareLoop()},
		{"embedded", h.p, h.pooled(Sender{})},
		{"agent", secctx.Wrap(h.mech, client), h.pooled(Sender{}, viaAgent)},
		{"agent-verifying", secctx.Wrap(h.mech, client), h.pooled(Sender{Verify: true}, viaAgent)},
	}
	for _, r := range rivals {
		h.batch(r) // a worker's first handoff is not what it does in a second
	}
	took := make([]time.Duration, len(rivals))
	for b.Loop() {
		for i, r := range rivals {
			took[i] += h.batch(r)
		}
	}
	b.ReportMetric(0, "ns/op") // of all of them, and of making the contexts
	for i, r := range rivals {
		b.ReportMetric(float64(took[i].Nanoseconds())/float64(b.N*benchBatch), r.name+"-ns")
	}
}

// pooled hands over as a server does, by a Pool.
func (h *house) pooled(s Sender, more ...func(*exec.Cmd)) func(gssapi.SecContext, net.Conn) error {
	ctx, p := h.startPool(s, "sink", more...)
	return func(sc gssapi.SecContext, conn net.Conn) error { return p.Send(ctx, sc, conn, nil) }
}

func (h *house) startPool(s Sender, role string, more ...func(*exec.Cmd)) (context.Context, *Pool) {
	p := &Pool{Sender: s, Workers: benchWorkers, Start: func(context.Context) (*net.UnixConn, error) {
		return h.spawn(role, "", more...).conn, nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	go p.Run(ctx)
	return ctx, p
}

// plainPool is pooled with plain tokens, and workers that are believed.
func (h *house) plainPool() func(gssapi.SecContext, net.Conn) error {
	ctx, p := h.startPool(Sender{}, "plain")
	return func(sc gssapi.SecContext, conn net.Conn) error {
		parcel, err := packConn(conn, nil)
		if err != nil {
			return err
		}
		a, err := p.take(ctx)
		if err != nil {
			return err
		}
		err = givePlain(ctx, a.waiter, sc, parcel, time.Now().Add(DefaultPatience))
		a.good = err == nil
		a.done <- err
		return err
	}
}

// bareLoop is the exchange alone: no limits to any wait, no look at whether the
// worker lives, no goroutine but the one that sends.
func (h *house) bareLoop() func(gssapi.SecContext, net.Conn) error {
	free := make(chan *waiter, benchWorkers)
	for range benchWorkers {
		w, err := newWaiter(h.spawn("plain", "").conn)
		require.NoError(h.t, err)
		free <- w
	}
	return func(sc gssapi.SecContext, conn net.Conn) error {
		parcel, err := packConn(conn, nil)
		if err != nil {
			return err
		}
		w := <-free
		defer func() { free <- w }()
		if _, err := w.hello(); err != nil {
			return err
		}
		return givePlain(context.Background(), w, sc, parcel, time.Time{})
	}
}

// givePlain is give with a plain token, which nobody can take back.
func givePlain(ctx context.Context, w *waiter, sc gssapi.SecContext, p *parcel, limit time.Time) error {
	tok, err := sc.Export()
	if err != nil {
		return err
	}
	defer watch(ctx, w.conn, limit)()
	if _, err := p.offer(w.conn, tok); err != nil {
		return err
	}
	if err := w.taken(); err != nil {
		return err
	}
	p.close()
	return nil
}

// batch times benchBatch handoffs, as many at a time as there are workers.
func (h *house) batch(r rival) time.Duration {
	type parcel struct {
		sc   gssapi.SecContext
		conn net.Conn
	}
	parcels := make(chan parcel, benchBatch)
	var others []net.Conn
	for range benchBatch {
		sc := h.accepted(r.accept)
		far, near := socketPair(h.t)
		others = append(others, far)
		parcels <- parcel{sc, near}
	}
	close(parcels)
	var all sync.WaitGroup
	begin := time.Now()
	for range benchWorkers {
		all.Go(func() {
			for p := range parcels {
				if err := r.send(p.sc, p.conn); err != nil {
					h.t.Errorf("%s: %v", r.name, err)
					return
				}
				_, _ = p.sc.Delete()
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	for _, c := range others {
		_ = c.Close()
	}
	return took
}

// accepted is a context of p's, without the other side.
func (h *house) accepted(p gssapi.Provider) gssapi.SecContext {
	initiator, err := h.mech.InitSecContext(h.name, gssapi.WithInitiatorCredential(h.from))
	require.NoError(h.t, err)
	sc, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(h.with))
	require.NoError(h.t, err)
	out, _, err := initiator.Continue(nil)
	require.NoError(h.t, err)
	_, _, err = sc.Continue(out)
	require.NoError(h.t, err)
	_, _ = initiator.Delete()
	return sc
}

// socketPair is unixPair without a cleanup, of which there would be too many.
func socketPair(t testing.TB) (a, b net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	a, err = unixConn(fds[0])
	require.NoError(t, err)
	b, err = unixConn(fds[1])
	require.NoError(t, err)
	return a, b
}

// sink is a worker of the benchmark: it takes a context and lets it go. With an
// unwrapped provider it takes plain tokens.
func sink(c *net.UnixConn, p gssapi.Provider) error {
	for {
		sc, conn, err := Receive(context.Background(), c, p)
		if err != nil {
			return err
		}
		_ = conn.Close()
		_, _ = sc.Delete()
	}
}
