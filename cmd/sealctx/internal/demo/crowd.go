package demo

import (
	"errors"
	"fmt"
	"path/filepath"
)

const (
	// hops is how often each session of the crowd is handed on.
	hops = 4

	// MaxCrowd bounds the crowd: each of it is a process.
	MaxCrowd = 64
)

// crowd is the last scene, of several initiators that talk at the same time
// while their sessions are handed on.
func (d *director) crowd(n int) error {
	d.head(fmt.Sprintf("7. %d at once", n))
	guests := make([]*player, n)
	for i := range guests {
		var err error
		if guests[i], err = d.guest(i); err != nil {
			return err
		}
	}
	type result struct {
		x   Exchanged
		err error
	}
	results := make([]chan result, n)
	for i, p := range guests {
		results[i] = make(chan result, 1)
		go func() {
			x, err := d.follow(p, firstOfCrowd+i)
			results[i] <- result{x, err}
		}()
	}
	var errs []error
	for i, p := range guests {
		r := <-results[i]
		if r.err == nil {
			d.row(p.name, "%d sealed, %d signed, all in sequence; handed on %d times meanwhile", r.x.Sealed, r.x.Signed, hops)
		}
		errs = append(errs, r.err)
	}
	return errors.Join(errs...)
}

// firstOfCrowd is the acceptor's first session with the crowd: alice's and bob's
// come before.
const firstOfCrowd = 2

// guest starts one of the crowd.
func (d *director) guest(i int) (*player, error) {
	name := fmt.Sprintf("guest%d", i+1)
	if known := []string{"carol", "dave", "erin"}; i < len(known) {
		name = known[i]
	}
	p, err := start(d.ctx, d.dir, "initiator", name, "")
	if err != nil {
		return nil, err
	}
	d.players = append(d.players, p)
	if err := d.realm.WriteCCache(d.ccache(name), name); err != nil {
		return nil, err
	}
	return p, d.connect(p)
}

func (d *director) ccache(name string) string { return filepath.Join(d.dir, name+".ccache") }

// follow hands a session on, from worker to worker, while its initiator talks:
// each holder has to serve a message before it gives the session up. What they
// served must be what the initiator sent.
func (d *director) follow(p *player, session int) (Exchanged, error) {
	if _, err := do[struct{}](p, "Client.Begin", struct{}{}); err != nil {
		return Exchanged{}, err
	}
	holder, total := d.acceptor, 0
	for hop := 0; ; hop++ {
		if _, err := do[struct{}](holder, "Node.Busy", session); err != nil {
			return Exchanged{}, err
		}
		if hop == hops {
			break
		}
		to := d.a
		if hop%2 == 1 {
			to = d.b
		}
		out, served, err := d.handOver(p.name, holder, session, to)
		if err != nil {
			return Exchanged{}, err
		}
		holder, session, total = to, out.Session, total+served
	}
	x, err := do[Exchanged](p, "Client.End", struct{}{})
	if err != nil {
		return x, err
	}
	served, err := do[int](holder, "Node.Served", session)
	if err == nil && total+served != x.Sealed+x.Signed {
		err = fmt.Errorf("%s sent %d messages, and %d were served", p.name, x.Sealed+x.Signed, total+served)
	}
	return x, err
}
