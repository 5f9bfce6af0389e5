package vectors

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
)

// What a vector has unless its case says otherwise.
const (
	baseSlots   = 64
	baseSlot    = 5
	baseWord    = 7<<24 | 3600<<2 | stateOut // generation 7, one hour after the epoch's birth
	baseIssued  = 1_000_000_000_000          // 1000 s
	baseExpires = 1 << 62                    // 146 years: in time whatever the clock says
	baseUser    = 1000
	baseFormat  = "mit/2/amd64"
	basePlain   = 100

	stateFree  = 1
	stateOut   = 2
	stateSpent = 3
)

// krb5 is the object identifier 1.2.840.113554.1.2.2, DER without tag and length.
var krb5 = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}

// A spec says how a vector differs from the base.
type spec struct {
	name, expect, comment string

	plain  int                               // length of the plain token; 0: basePlain, negative: empty
	parts  func(p *Parts)                    // before sealing
	forged func(p *Parts)                    // header and context after sealing, without the key
	token  func(sealed, other []byte) []byte // after that; other is a second genuine token
	opener func(v *Vector)                   // who opens, when, and what the register holds
}

// stream returns n bytes that depend on the names alone.
func stream(n int, names ...string) []byte {
	var b []byte
	for i := uint32(0); len(b) < n; i++ {
		h := sha256.New()
		h.Write([]byte("sealctx test vector"))
		for _, name := range names {
			h.Write(append([]byte{0}, name...))
		}
		h.Write(binary.BigEndian.AppendUint32(nil, i))
		b = h.Sum(b)
	}
	return b[:n]
}

// Dir is where the vectors are, from the top of the module.
const Dir = "seal/testdata/vectors"

// suites are the prefixes of names.
var suites = map[string]uint8{"gcm": GCM, "chacha": ChaCha}

// All makes every vector, by name.
func All() (map[string]*Vector, error) {
	all := map[string]*Vector{}
	for prefix, suite := range suites {
		for _, s := range specs() {
			v, err := s.make(prefix+"-"+s.name, suite)
			if err != nil {
				return nil, fmt.Errorf("vectors: %s: %w", s.name, err)
			}
			if all[v.Name] != nil {
				return nil, fmt.Errorf("vectors: two are named %s", v.Name)
			}
			all[v.Name] = v
		}
	}
	return all, nil
}

// Files returns the files of All, by name.
func Files() (map[string][]byte, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, v := range maps.All(all) {
		files[name+".txt"] = v.Marshal()
	}
	return files, nil
}

// base returns the parts of a genuine token.
func base(suite uint8, name string, plain []byte) *Parts {
	return &Parts{
		HostKey:   stream(32, "host key"),
		Magic:     "SLCX",
		Version:   suite,
		Epoch:     stream(16, "epoch"),
		Slot:      baseSlot,
		Word:      baseWord,
		Salt:      stream(32, name, "salt"),
		Issued:    baseIssued,
		Expires:   baseExpires,
		Mechanism: krb5,
		Format:    []byte(baseFormat),
		Exporter:  baseUser,
		Kind:      KindUser,
		Audience:  binary.BigEndian.AppendUint32(nil, baseUser),
		Nonce:     stream(12, name, "nonce"),
		Body:      Pad(plain),
		Suite:     suite,
	}
}

func (s *spec) make(name string, suite uint8) (*Vector, error) {
	plain := stream(s.plainLength(), name, "plain")
	p := base(suite, name, plain)
	v := &Vector{
		Name: name, Comment: s.comment, Expect: s.expect, Action: "open",
		HostKey: p.HostKey, Epoch: p.Epoch, Suite: suite,
		Slots: baseSlots, Slot: baseSlot, Word: baseWord,
		User: baseUser, Process: process(4711, 123456), Format: baseFormat,
	}
	if s.parts != nil {
		s.parts(p)
	}
	if s.opener != nil {
		s.opener(v)
	}
	if err := s.seal(v, p); err != nil {
		return nil, err
	}
	if s.expect == Success {
		sum := sha256.Sum256(plain)
		v.PlainLength, v.PlainSHA256 = len(plain), sum[:]
	}
	return v, nil
}

func (s *spec) plainLength() int {
	switch {
	case s.plain < 0:
		return 0
	case s.plain == 0:
		return basePlain
	}
	return s.plain
}

// seal fills in the token, and the keys that an opener would derive for it.
func (s *spec) seal(v *Vector, p *Parts) error {
	sealed, err := p.Seal()
	if err != nil {
		return err
	}
	if s.forged != nil {
		rest := sealed[len(p.Bound()):]
		s.forged(p)
		sealed = append(p.Bound(), rest...)
	}
	if s.token != nil {
		other, err := base(p.Suite, v.Name+" other", stream(basePlain, v.Name, "other")).Seal()
		if err != nil {
			return err
		}
		sealed = s.token(sealed, other)
	}
	v.Token = sealed
	switch s.expect {
	case Malformed, UnknownEpoch, WrongSuite:
		return nil
	}
	v.KEnc, v.KCom, err = Keys(v.HostKey, sealed[:len(p.Bound())])
	return err
}

// process returns the value of an audience of one process.
func process(pid uint32, start uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, pid), start)
}
