package kdc

import (
	"fmt"
	"os"
	"strings"
)

// clientConf is read by both libraries. No DNS, no referrals, no canonical
// names: the tests run on machines without a network. MIT encloses a PAC in
// each ticket of its own accord.
const clientConf = `[libdefaults]
	default_realm = %[1]s
	dns_lookup_kdc = false
	dns_lookup_realm = false
	dns_canonicalize_hostname = false
	forwardable = true
	rdns = false
	ignore_acceptor_hostname = true
	qualify_shortname = ""
	default_tgs_enctypes = %[3]s
	default_tkt_enctypes = %[3]s
	permitted_enctypes = %[3]s
	default_etypes = %[3]s

[realms]
	%[1]s = {
		kdc = 127.0.0.1:%[2]d
	}

[domain_realm]
	localhost = %[1]s
	.sealctx.test = %[1]s
`

const kdcConf = `[kdcdefaults]
	kdc_listen = 127.0.0.1:%[2]d
	kdc_tcp_listen = 127.0.0.1:%[2]d

[realms]
	%[1]s = {
		database_name = %[3]s/principal
		key_stash_file = %[3]s/stash
		acl_file = %[3]s/kadm5.acl
		max_life = 24h
		supported_enctypes = aes256-cts-hmac-sha1-96:normal
	}

[logging]
	kdc = FILE:%[3]s/kdc.log
	default = FILE:%[3]s/krb5.log
`

// configure writes the files that name the KDC's port.
func (r *Realm) configure(port int) error {
	var names []string
	for _, n := range numbers {
		names = append(names, enctypes[n])
	}
	files := map[string]string{
		"krb5.conf": fmt.Sprintf(clientConf, Name, port, strings.Join(names, " ")),
		"kdc.conf":  fmt.Sprintf(kdcConf, Name, port, r.dir),
	}
	for name, text := range files {
		if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.MkdirAll(r.path("rcache"), 0o700)
}
