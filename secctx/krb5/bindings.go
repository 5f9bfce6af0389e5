package krb5

import (
	"crypto/fips140"
	"crypto/md5"
	"encoding/binary"
	"math"
	"net"

	"github.com/golang-auth/go-gssapi/v3"
)

// bind hashes the channel bindings in the form of RFC 4121 section 4.1.1.2: type
// and length, little-endian, before each address, and the length before the data.
// An address without such a form is GSS_S_BAD_BINDINGS.
func (s *setup) bind(cb *gssapi.ChannelBinding) error {
	if cb == nil {
		return nil
	}
	var b []byte
	for _, addr := range []net.Addr{cb.InitiatorAddr, cb.AcceptorAddr} {
		family, data, ok := address(addr)
		if !ok {
			return failf(gssapi.ErrBadBindings, "address of type %T", addr)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(family))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
		b = append(b, data...)
	}
	if uint64(len(cb.Data)) > math.MaxUint32 {
		return failf(gssapi.ErrBadBindings, "%d bytes of data", len(cb.Data))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(cb.Data)))
	b = append(b, cb.Data...)
	// The RFC demands MD5 here, over data that both sides know. The authenticator
	// around it gives the protection.
	fips140.WithoutEnforcement(func() { s.bindings = md5.Sum(b) })
	s.bound = true
	return nil
}

// address gives an address its GSS-API family and bytes. It does so as the C
// bindings of go-gssapi do, so that both ends agree whatever their provider.
func address(addr net.Addr) (gssapi.GssAddressFamily, []byte, bool) {
	switch a := addr.(type) {
	case nil:
		return gssapi.GssAddrFamilyUNSPEC, nil, true
	case *net.TCPAddr:
		if a != nil {
			return gssapi.GssAddrFamilyINET, ip(a.IP), true
		}
	case *net.UDPAddr:
		if a != nil {
			return gssapi.GssAddrFamilyINET, ip(a.IP), true
		}
	case *net.IPAddr:
		if a != nil {
			return gssapi.GssAddrFamilyINET, ip(a.IP), true
		}
	case *net.UnixAddr:
		if a != nil {
			return gssapi.GssAddrFamilyLOCAL, []byte(a.Name), true
		}
	}
	return 0, nil, false
}

func ip(a net.IP) []byte {
	if v4 := a.To4(); v4 != nil {
		return v4
	}
	return a.To16()
}
