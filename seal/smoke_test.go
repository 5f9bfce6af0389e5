package seal
import ("testing";"github.com/stretchr/testify/require";"github.com/sealctx/sealctx/keyring")
func TestSmoke(t *testing.T) {
	for _, s := range []keyring.Suite{1,2} {
	r, err := keyring.New(&keyring.Options{Suite: s}); require.NoError(t, err)
	h, err := NewHost(r, nil); require.NoError(t, err)
	for _, n := range []int{0,1,511,512,1165,MaxPlain} {
	p := make([]byte, n); for i := range p { p[i]=byte(i) }
	v, err := h.Reserve(Request{Format:"x"}); require.NoError(t, err)
	tok, err := v.Seal(p); require.NoError(t, err)
	for i := 0; i < len(tok); i+=1+n/1000 { tok[i]^=1; _, err := h.Open(tok,"x"); require.Equal(t, ErrDefective, err, i); tok[i]^=1 }
	_, err = h.Open(tok,"y"); require.ErrorIs(t, err, ErrFormat)
	b, err := h.Open(tok,"x"); require.NoError(t, err)
	require.Equal(t, p, append([]byte{}, b.Bytes()...))
	b.Wipe()
	_, err = h.Open(tok,"x"); require.ErrorIs(t, err, ErrSpent)
	}
	require.Zero(t, h.pool.InUse())
	}
}
func BenchmarkCycle(b *testing.B) {
	r, _ := keyring.Open("/dev/shm/bench", nil)
	h, _ := NewHost(r, nil)
	p := make([]byte, 1165)
	req := Request{Format:"mit/2/amd64", Mechanism: make([]byte, 9)}
	b.ReportAllocs()
	for b.Loop() {
		v, err := h.Reserve(req); if err != nil { b.Fatal(err) }
		t, err := v.Seal(p); if err != nil { b.Fatal(err) }
		s, err := h.Open(t, "mit/2/amd64"); if err != nil { b.Fatal(err) }
		s.Wipe()
	}
}
