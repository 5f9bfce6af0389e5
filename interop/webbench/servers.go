package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// startServer starts this program as a server of package negotiate.
func startServer() (addr string, stop func(), err error) {
	cmd := exec.Command("/proc/self/exe", "serve")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return strings.TrimSpace(line), func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, err
}

const apacheConf = `ServerRoot %[1]s
PidFile %[1]s/pid
ServerName localhost
Listen %[2]s
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule auth_gssapi_module /usr/lib/apache2/modules/mod_auth_gssapi.so
ErrorLog %[1]s/error.log
LogLevel crit
DocumentRoot %[1]s/www
StartServers 2
MaxKeepAliveRequests 0
<Location />
	AuthType GSSAPI
	AuthName "x"
	GssapiCredStore keytab:%[1]s/keytab
	GssapiAllowedMech krb5
	Require valid-user
</Location>
`

// startApache starts Apache with mod_auth_gssapi over the realm's keytab.
func startApache() (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("/tmp", "sealctx-apache-")
	if err != nil {
		return "", nil, err
	}
	keytab, err := os.ReadFile(strings.TrimPrefix(os.Getenv("KRB5_KTNAME"), "FILE:"))
	if err != nil {
		return "", nil, err
	}
	conf, err := os.ReadFile(os.Getenv("KRB5_CONFIG"))
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	// Apache's workers have a user of their own.
	err = errors.Join(l.Close(), os.Chmod(dir, 0o755), os.Mkdir(dir+"/www", 0o755), os.Mkdir(dir+"/rcache", 0o755), os.Chmod(dir+"/rcache", 0o777),
		os.WriteFile(dir+"/www/index.html", []byte("the page\n"), 0o644), os.WriteFile(dir+"/keytab", keytab, 0o644),
		os.WriteFile(dir+"/krb5.conf", conf, 0o644), os.WriteFile(dir+"/httpd.conf", fmt.Appendf(nil, apacheConf, dir, addr), 0o644))
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command("/usr/sbin/apache2", "-f", filepath.Join(dir, "httpd.conf"), "-DFOREGROUND")
	cmd.Env = append(os.Environ(), "KRB5RCACHEDIR="+dir+"/rcache", "KRB5_CONFIG="+dir+"/krb5.conf")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	return addr, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}, nil
}
