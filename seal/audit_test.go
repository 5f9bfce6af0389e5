package seal

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/stretchr/testify/require"
)

// Each outcome is one event, with the reason that the caller is not told.
func TestAuditEvents(t *testing.T) {
	h := memHost(t, nil)
	log := &recorder{}
	h = hookedHost(t, h, log)
	user := fmt.Sprintf("user %d", h.who.User())
	expect := func(message, reason string) {
		t.Helper()
		require.Len(t, log.events, 1)
		e := log.last(t)
		require.Equal(t, message, e.message)
		if reason == "" {
			require.NotContains(t, e.attrs, "reason")
		} else {
			require.Contains(t, e.attrs["reason"], reason)
		}
		log.events = nil
	}

	r := reserve(t, h, testRequest)
	e := log.last(t)
	require.Equal(t, user, e.attrs["audience"])
	require.Equal(t, fmt.Sprint(h.who.User()), e.attrs["exporter"])
	expect(eventReserved, "")

	sealed, err := r.Seal(nil)
	require.NoError(t, err)
	require.Empty(t, log.events)
	requireRefused(t, h, sealed[:10], ErrDefective)
	expect(eventRefused, "malformed")
	parsed, err := token.Parse(sealed)
	require.NoError(t, err)
	altered := func(at int) []byte { b := append([]byte{}, sealed...); b[at] ^= 1; return b }
	requireRefused(t, h, altered(5), ErrDefective)
	expect(eventRefused, "epoch unknown or retired")
	requireRefused(t, h, altered(40), ErrDefective)
	expect(eventRefused, "header not authentic")
	requireRefused(t, h, altered(len(sealed)-1), ErrDefective)
	e = log.last(t)
	require.Equal(t, hex.EncodeToString(parsed.Epoch[:]), e.attrs["epoch"])
	require.Equal(t, fmt.Sprint(parsed.Slot), e.attrs["slot"])
	require.Equal(t, user, e.attrs["audience"])
	expect(eventRefused, "header genuine, body altered")
	requireRefused(t, h, altered(4)[:], ErrDefective) // version 1 <-> 0
	expect(eventRefused, "malformed")
	_, err = h.Open(sealed, otherForm)
	require.ErrorIs(t, err, ErrFormat)
	expect(eventRefused, otherForm)
	requireOpens(t, h, sealed, []byte{})
	expect(eventOpened, "")
	requireRefused(t, h, sealed, ErrSpent)
	expect(eventRefused, ErrSpent.Error())
	sealed = sealToken(t, h, testRequest, nil)
	log.events = nil
	s, err := h.TakeBack(sealed, testFormat)
	require.NoError(t, err)
	s.Wipe()
	expect(eventTakenBack, "")
	_, err = h.TakeBack(sealed, testFormat)
	require.ErrorIs(t, err, ErrSpent)
	expect(eventGone, "")
	_, err = h.TakeBack(sealed, otherForm)
	require.ErrorIs(t, err, ErrFormat)
	expect(eventRefused, otherForm)

	requireRefused(t, h, forge(t, h, nil, func(h *token.Header) { h.Suite = 3 - h.Suite }), ErrDefective)
	expect(eventRefused, "suite is not the epoch's")
	requireRefused(t, h, forge(t, h, nil, func(h *token.Header) { h.Audience = User(h.Exporter + 1).wire() }), ErrUnauthorized)
	expect(eventRefused, fmt.Sprintf("it is for user %d", h.who.User()+1))
	requireRefused(t, h, forge(t, h, nil, func(h *token.Header) { h.Expires = h.Issued + 1 }), ErrExpired)
	expect(eventRefused, ErrExpired.Error())
}

// A log that takes only warnings gets no event of success. A host without a log logs
// nothing.
func TestAuditLevels(t *testing.T) {
	h := memHost(t, nil)
	for _, tt := range []struct {
		level slog.Level
		want  []string
	}{
		{slog.LevelInfo, []string{eventReserved, eventOpened, eventRefused, eventGone}},
		{slog.LevelWarn, []string{eventRefused}},
		{slog.LevelError, nil},
	} {
		log := &recorder{level: tt.level}
		hooked := hookedHost(t, h, log)
		sealed := sealToken(t, hooked, testRequest, nil)
		requireOpens(t, hooked, sealed, []byte{})
		requireRefused(t, hooked, sealed, ErrSpent)
		_, err := hooked.TakeBack(sealed, testFormat)
		require.ErrorIs(t, err, ErrSpent)
		var got []string
		for _, e := range log.events {
			got = append(got, e.message)
		}
		require.Equal(t, tt.want, got)
	}
}

// leaks counts the secrets of which eight bytes or more stand in a text, raw or
// in a form that a log would give them.
func leaks(text string, secrets ...[]byte) int {
	n := 0
	for _, s := range secrets {
		for i := 0; i+8 <= len(s); i++ {
			w := s[i : i+8]
			decimal := strings.Trim(fmt.Sprint(w), "[]")
			if strings.Contains(text, string(w)) || strings.Contains(strings.ToLower(text), hex.EncodeToString(w)) ||
				strings.Contains(text, decimal) || strings.Contains(text, base64.RawStdEncoding.EncodeToString(w[:6])) {
				n++
				break
			}
		}
	}
	return n
}

// No event holds a secret: not the plain token, not the token's keys.
func TestAuditHasNoSecret(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		log := &recorder{level: slog.LevelDebug}
		hooked := hookedHost(t, h, log)
		text := func() string { return fmt.Sprint(log.events) }
		plain := randomBytes(200)
		r := reserve(t, hooked, testRequest)
		key := append([]byte{}, r.grant.Key.Bytes()...)
		com := append([]byte{}, r.grant.Start[len(r.grant.Start)-token.CommitmentSize:]...)
		sealed, err := r.Seal(plain)
		require.NoError(t, err)
		for _, b := range [][]byte{sealed[:50], flips(sealed)[8*30], flips(sealed)[8*(len(sealed)-3)]} {
			requireRefused(t, hooked, b, ErrDefective)
		}
		_, err = hooked.Open(sealed, otherForm)
		require.ErrorIs(t, err, ErrFormat)
		s, err := hooked.Open(sealed, testFormat)
		require.NoError(t, err)
		defer s.Wipe()
		requireRefused(t, hooked, sealed, ErrSpent)
		require.Len(t, log.events, 7)
		require.Zero(t, leaks(text(), plain, key, com), text())

		// The control: the same log, given what it must not be given.
		for _, leak := range []slog.Attr{
			slog.String("token", string(plain[:20])), slog.String("key", hex.EncodeToString(key)),
			slog.Any("key", key[3:15]), slog.String("key", base64.StdEncoding.EncodeToString(com)),
		} {
			log.events = nil
			hooked.log.Warn(eventRefused, leak)
			require.NotZero(t, leaks(text(), plain, key, com), text())
		}
		log.events = nil
		hooked.log.Warn(eventOpened, "secret", s)
		require.Contains(t, text(), "[redacted]")
		require.Zero(t, leaks(text(), plain, key, com), text())
	})
}
