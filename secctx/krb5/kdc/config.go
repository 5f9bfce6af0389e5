package kdc

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-krb5/krb5/config"

	"github.com/sealctx/sealctx/internal/secureenv"
	"github.com/sealctx/sealctx/secctx/krb5/internal/profile"
)

// ErrConfig means that a setting in krb5.conf cannot be used. The error that
// wraps it names file, line and setting.
var ErrConfig = errors.New("kdc: krb5.conf")

// configFiles returns the paths that New reads: one, or those of KRB5_CONFIG.
func configFiles(path string) []string {
	if path != "" {
		return []string{path}
	}
	var paths []string
	for p := range strings.SplitSeq(secureenv.Get("KRB5_CONFIG"), ":") {
		if rest, ok := strings.CutPrefix(p, "~/"); ok {
			p = secureenv.Get("HOME") + "/" + rest
		}
		if p != "" {
			paths = append(paths, p)
		}
	}
	if paths == nil {
		paths = []string{"/etc/krb5.conf"}
	}
	return paths
}

// settings are the parts of krb5.conf that concern a Client.
type settings struct {
	profile *profile.Profile
	realms  []config.Realm      // with their KDCs as host:port, in the file's order
	faults  map[string][]string // why a realm's entry names no KDC that can be used, by realm
}

// readSettings reads krb5.conf. It returns an error for values that cannot be used,
// but not for a realm without a KDC, which may never be wanted.
func readSettings(paths []string, owners []int) (*settings, error) {
	p, err := profile.Load(paths, owners...)
	if err != nil {
		return nil, err
	}
	return newSettings(p)
}

func newSettings(p *profile.Profile) (*settings, error) {
	s := &settings{profile: p, faults: map[string][]string{}}
	for _, realm := range p.Names(false, "realms") {
		v, _ := p.Value("realms", realm)
		s.faults[realm] = append(s.faults[realm], fmt.Sprintf("%s: %s is no block: '{' must end its line", v.Where, realm))
	}
	for _, realm := range p.Names(true, "realms") {
		r := config.Realm{Realm: realm}
		for _, v := range p.Values("realms", realm, "kdc") {
			address, err := kdcAddress(v.Text)
			if err != nil {
				s.faults[realm] = append(s.faults[realm], fmt.Sprintf("%s: kdc = %s: %v", v.Where, v.Text, err))
				continue
			}
			r.KDC = append(r.KDC, address)
		}
		s.realms = append(s.realms, r)
	}
	// A realm's own settings are in a block of its name.
	for _, realm := range append([]string{""}, p.Names(true, "libdefaults")...) {
		if _, err := s.forRealm(realm); err != nil {
			return nil, err
		}
	}
	return s, nil
}

const kdcPort = "88"

// kdcAddress returns host:port of a value of "kdc": host, host:port, or a host in
// brackets, as IPv6 addresses must be. What stands behind a blank is left aside,
// as MIT's library does.
func kdcAddress(text string) (string, error) {
	text, _, _ = strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
	host, port := text, kdcPort
	rest, bracketed := strings.CutPrefix(text, "[")
	at := strings.IndexByte(rest, ']')
	switch {
	case strings.HasPrefix(text, "https://"):
		return "", errors.New("a KDC behind an HTTPS proxy is not supported")
	case strings.Contains(text, "/"):
		return "", errors.New("not host, host:port or [address]:port")
	case bracketed && at < 0:
		return "", errors.New("']' is missing")
	case bracketed:
		host, text = rest[:at], rest[at+1:]
		if text != "" && text[0] != ':' {
			return "", errors.New("only a colon and a port may stand behind ']'")
		}
		if text != "" {
			port = text[1:]
		}
	case strings.Count(text, ":") > 1:
		return "", errors.New("an IPv6 address must be in brackets")
	default:
		if h, p, ok := strings.Cut(text, ":"); ok {
			host, port = h, p
		}
	}
	if strings.Trim(host, "0123456789") == "" || strings.ContainsAny(host, "[]") {
		return "", errors.New("there is no host in it")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %q: not a number from 1 to 65535", port)
	}
	return net.JoinHostPort(host, port), nil
}

// value is a setting of [libdefaults], the realm's own one first.
func (s *settings) value(realm, name string) (profile.Value, bool) {
	if realm != "" {
		if v, ok := s.profile.Value("libdefaults", realm, name); ok {
			return v, true
		}
	}
	return s.profile.Value("libdefaults", name)
}

// libdefaults are the settings of [libdefaults] that count, and how they are read.
var libdefaults = []struct {
	name string
	read func(text string, d *config.LibDefaults) error
}{
	{"default_realm", func(text string, d *config.LibDefaults) error { d.DefaultRealm = text; return nil }},
	{"dns_lookup_kdc", boolean(func(d *config.LibDefaults) *bool { return &d.DNSLookupKDC })},
	{"canonicalize", boolean(func(d *config.LibDefaults) *bool { return &d.Canonicalize })},
	{"forwardable", boolean(func(d *config.LibDefaults) *bool { return &d.Forwardable })},
	{"proxiable", boolean(func(d *config.LibDefaults) *bool { return &d.Proxiable })},
	{"noaddresses", boolean(func(d *config.LibDefaults) *bool { return &d.NoAddresses })},
	{"clockskew", duration(func(d *config.LibDefaults) *time.Duration { return &d.Clockskew })},
	{"ticket_lifetime", duration(func(d *config.LibDefaults) *time.Duration { return &d.TicketLifetime })},
	{"renew_lifetime", duration(func(d *config.LibDefaults) *time.Duration { return &d.RenewLifetime })},
	{"udp_preference_limit", udpLimit},
	{"permitted_enctypes", func(text string, d *config.LibDefaults) error { return enctypeList(text, &d.PermittedEnctypeIDs) }},
	{"default_tgs_enctypes", func(text string, d *config.LibDefaults) error { return enctypeList(text, &d.DefaultTGSEnctypeIDs) }},
	{"default_tkt_enctypes", func(text string, d *config.LibDefaults) error { return enctypeList(text, &d.DefaultTktEnctypeIDs) }},
}

// forRealm makes the library's configuration for a client of a realm. It shares
// nothing with another: the library changes the order of KDCs in it.
func (s *settings) forRealm(realm string) (*config.Config, error) {
	c := config.New()
	d := &c.LibDefaults
	d.DNSLookupKDC = true // as in MIT's library
	d.PermittedEnctypeIDs, d.DefaultTGSEnctypeIDs, d.DefaultTktEnctypeIDs = nil, nil, nil
	for _, setting := range libdefaults {
		v, ok := s.value(realm, setting.name)
		if !ok {
			continue
		}
		if err := setting.read(v.Text, d); err != nil {
			return nil, fmt.Errorf("%w: %s: %s = %s: %w", ErrConfig, v.Where, setting.name, v.Text, err)
		}
	}
	if d.PermittedEnctypeIDs == nil {
		d.PermittedEnctypeIDs = slices.Clone(enctypes[:])
	}
	for _, list := range []*[]int32{&d.DefaultTGSEnctypeIDs, &d.DefaultTktEnctypeIDs} {
		if *list == nil {
			*list = enctypes[:]
		}
		*list = slices.DeleteFunc(slices.Clone(*list), func(id int32) bool { return !slices.Contains(d.PermittedEnctypeIDs, id) })
		if len(*list) == 0 {
			return nil, fmt.Errorf("%w: permitted_enctypes leaves nothing of default_tgs_enctypes or default_tkt_enctypes", ErrConfig)
		}
	}
	for _, r := range s.realms {
		c.Realms = append(c.Realms, config.Realm{Realm: r.Realm, KDC: slices.Clone(r.KDC)})
	}
	return c, nil
}

var (
	yes = []string{"y", "yes", "true", "t", "1", "on"}
	no  = []string{"n", "no", "false", "nil", "0", "off"}
)

func boolean(field func(*config.LibDefaults) *bool) func(string, *config.LibDefaults) error {
	return func(text string, d *config.LibDefaults) error {
		text = strings.ToLower(text)
		if !slices.Contains(yes, text) && !slices.Contains(no, text) {
			return fmt.Errorf("neither yes (%s) nor no (%s)", strings.Join(yes, ", "), strings.Join(no, ", "))
		}
		*field(d) = slices.Contains(yes, text)
		return nil
	}
}

func duration(field func(*config.LibDefaults) *time.Duration) func(string, *config.LibDefaults) error {
	return func(text string, d *config.LibDefaults) (err error) {
		*field(d), err = parseDuration(text)
		return err
	}
}

// The largest UDP message that MIT's library sends, whatever is configured.
const maxUDP = 32700

func udpLimit(text string, d *config.LibDefaults) error {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return errors.New("not a number of bytes")
	}
	if n >= 0 { // below, MIT's library takes the default
		d.UDPPreferenceLimit = int(min(n, maxUDP))
	}
	return nil
}

// families are the words in a list of encryption types that stand for types of
// this package. Other words (des3, rc4, camellia and their kind) stand for types
// that it does not have.
var families = map[string][]int32{
	"default": enctypes[:], "aes": enctypes[:],
	"aes128-cts-hmac-sha1-96": {17}, "aes128-cts": {17}, "aes128-sha1": {17},
	"aes256-cts-hmac-sha1-96": {18}, "aes256-cts": {18}, "aes256-sha1": {18},
	"aes128-cts-hmac-sha256-128": {19}, "aes128-sha2": {19},
	"aes256-cts-hmac-sha384-192": {20}, "aes256-sha2": {20},
}

// enctypeList reads a list of encryption types: words between blanks and commas,
// with "-" before those that are taken away.
func enctypeList(text string, list *[]int32) error {
	*list = []int32{}
	for _, word := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\r\n,", c) }) {
		word, away := strings.CutPrefix(word, "-")
		word = strings.ToLower(strings.TrimPrefix(word, "+"))
		for _, id := range families[word] {
			*list = slices.DeleteFunc(*list, func(have int32) bool { return away && have == id })
			if !away && !slices.Contains(*list, id) {
				*list = append(*list, id)
			}
		}
	}
	if len(*list) == 0 {
		return errors.New("none of them is one of aes256-sha1, aes128-sha1, aes256-sha2 and aes128-sha2, which this package has")
	}
	return nil
}

// parseDuration reads a length of time in one of MIT's forms: seconds; h:m,
// h:m:s, d-h:m:s; or numbers with the units d, h, m, s in that order.
func parseDuration(text string) (time.Duration, error) {
	bad := errors.New("not a length of time such as 36000, 10h, 1d 12h, 10:00 or 1-12:00:00")
	rest, negative := strings.CutPrefix(strings.TrimLeft(text, " \t"), "-")
	var total uint64
	if d, ok := clock(rest); ok {
		total = d
	} else if d, ok := units(rest); ok {
		total = d
	} else {
		return 0, bad
	}
	if total > maxSeconds {
		return 0, fmt.Errorf("more than %d seconds", maxSeconds)
	}
	if negative {
		return 0, errors.New("a length of time is not negative")
	}
	return time.Duration(total) * time.Second, nil
}

// maxSeconds is the longest time: what fits into 31 bits, as in the protocol.
const maxSeconds = 1<<31 - 1

// number reads digits from the start of s.
func number(s string) (n uint64, rest string, ok bool) {
	at := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseUint(s[:at], 10, 31)
	return n, s[at:], err == nil
}

// clock reads h:m, h:m:s and d-h:m:s.
func clock(s string) (total uint64, ok bool) {
	day, rest, hasDay := strings.Cut(s, "-")
	if !hasDay {
		day, rest = "0", s
	}
	parts := strings.Split(rest, ":")
	if hasDay && len(parts) != 3 || len(parts) < 2 || len(parts) > 3 {
		return 0, false
	}
	total, tail, ok := number(day)
	if !ok || tail != "" {
		return 0, false
	}
	for i := range 3 {
		n := uint64(0)
		if i < len(parts) {
			if n, tail, ok = number(strings.TrimSpace(parts[i])); !ok || tail != "" || i > 0 && n > 59 {
				return 0, false
			}
		}
		total = total*[]uint64{24, 60, 60}[i] + n
	}
	return total, true
}

// units reads numbers with units, or a number of seconds.
func units(s string) (total uint64, ok bool) {
	last := ""
	for order := "dhms"; s != ""; s = strings.TrimLeft(s, " \t") {
		n, rest, ok := number(s)
		if !ok || last == "seconds" {
			return 0, false
		}
		last = "seconds" // a bare number may be the only thing
		if rest = strings.TrimLeft(rest, " \t"); rest != "" {
			at := strings.IndexByte(order, rest[0])
			if at < 0 {
				return 0, false
			}
			n *= map[byte]uint64{'d': 24 * 3600, 'h': 3600, 'm': 60, 's': 1}[rest[0]]
			order, rest, last = order[at+1:], rest[1:], "unit"
		} else if order != "dhms" {
			return 0, false
		}
		total, s = total+n, rest
	}
	return total, last != ""
}

// usable returns an error unless the KDCs of a realm can be found.
func (s *settings) usable(realm string, c *config.Config) error {
	for _, r := range c.Realms {
		if r.Realm == realm && len(r.KDC) > 0 {
			return nil
		}
	}
	if f := s.faults[realm]; f != nil {
		return fmt.Errorf("%w: no KDC of realm %s: %s", ErrConfig, realm, strings.Join(f, "; "))
	}
	if !c.LibDefaults.DNSLookupKDC {
		return fmt.Errorf("%w: [realms] has no kdc in a block %s, and dns_lookup_kdc is off", ErrConfig, realm)
	}
	return nil
}
