module github.com/sealctx/sealctx/interop

go 1.26.0

require github.com/stretchr/testify v1.12.1

require (
	github.com/golang-auth/go-gssapi-c v0.1.4
	github.com/golang-auth/go-gssapi/v3 v3.0.2-beta7
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0
)

replace github.com/sealctx/sealctx => ../
