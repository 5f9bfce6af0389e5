module github.com/sealctx/sealctx/interop

go 1.26.0

require (
	github.com/go-krb5/krb5 v0.1.0
	github.com/golang-auth/go-gssapi-c v0.1.4
	github.com/golang-auth/go-gssapi/v3 v3.0.2-beta7
	github.com/jcmturner/gokrb5/v8 v8.4.4
	github.com/sealctx/sealctx v0.0.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/sys v0.49.0
)

require (
	github.com/awnumar/memcall v0.4.0 // indirect
	github.com/awnumar/memguard v0.23.0 // indirect
	github.com/go-crypt/x v0.4.12 // indirect
	github.com/go-krb5/x v0.3.2 // indirect
	github.com/golang-auth/go-channelbinding v1.1.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/go-uuid v1.0.3 // indirect
	github.com/jcmturner/aescts/v2 v2.0.0 // indirect
	github.com/jcmturner/dnsutils/v2 v2.0.0 // indirect
	github.com/jcmturner/gofork v1.7.6 // indirect
	github.com/jcmturner/goidentity/v6 v6.0.1 // indirect
	github.com/jcmturner/rpc/v2 v2.0.3 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.60.0 // indirect
)

replace github.com/sealctx/sealctx => ../
