package krb5_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
)

// TestTicketKeepsItsKey: no log and no encoder shows a Granter's session key.
func TestTicketKeepsItsKey(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	shows := func(out []byte) bool {
		return bytes.Contains(out, key[:16]) || bytes.Contains(out, []byte(base64.StdEncoding.EncodeToString(key)[:16])) ||
			bytes.Contains(out, fmt.Appendf(nil, "%x", key[:16])) || bytes.Contains(out, []byte("48 49 50 51"))
	}
	encode := func(v any) []byte {
		out, err := json.Marshal(v)
		require.NoError(t, err)
		return out
	}
	require.True(t, shows(encode(key)), "the control")
	require.True(t, shows(fmt.Appendf(nil, "%v", key)), "the control")

	ticket := krb5.Ticket{Client: "alice@EXAMPLE.TEST", Service: "http/www@EXAMPLE.TEST", EType: 18, Key: key}
	type holder struct{ Ticket *krb5.Ticket }
	for _, v := range []any{ticket, &ticket, holder{&ticket}, []krb5.Ticket{ticket}} {
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("got", "ticket", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("got", "ticket", v)
		fmt.Fprintf(&log, "%v %+v %#v %s %x", v, v, v, v, v)
		log.Write(encode(v))
		require.NotEmpty(t, log.Bytes())
		require.False(t, shows(log.Bytes()), "%T: %s", v, log.Bytes())
	}
}
