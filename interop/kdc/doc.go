// Package kdc runs a private MIT Kerberos KDC for tests: any user, a high port
// on the loopback address, one directory that holds everything it writes.
//
//	realm, err := kdc.Start(dir)
//	defer realm.Stop()
//	err = realm.AddService("e18/localhost", "aes256-cts-hmac-sha1-96")
//	cmd.Env = append(os.Environ(), realm.Env()...)
//
// Nothing of the system's Kerberos is read or written: the environment that
// [Realm.Env] gives names the configuration, the keytab, the credential cache
// and the directory of the replay cache. It serves both MIT's and Heimdal's
// libraries.
//
// The passwords and keys of such a realm protect nothing. It is for tests.
package kdc
