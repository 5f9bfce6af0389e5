# What a user runs: make demo, make test. What a maintainer runs: make check,
# race, erased, interop, fuzz, bench, model; .ci/run runs all of it.
GO ?= go
FUZZTIME ?= 30s
SOAK ?= 3m
ROUNDS ?= 10
MODEL ?=
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: demo test check fmt vet staticcheck tidy cross race erased interop bench soak fuzz model

demo:
	@$(GO) run ./cmd/sealctx demo

test:
	$(GO) test ./...

check: fmt vet staticcheck tidy cross

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }

vet:
	$(GO) vet ./...
	GOEXPERIMENT=runtimesecret $(GO) vet ./...

staticcheck:
	$(GO) run $(STATICCHECK) ./...

tidy:
	$(GO) mod tidy -diff
	$(GO) mod verify

# The platforms that are promised to build; the tests run on the first.
cross:
	for target in linux/amd64 linux/arm64 linux/riscv64 linux/386; do \
		echo "building for $$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./... || exit 1; \
	done
	CGO_ENABLED=0 GOARCH=arm64 GOEXPERIMENT=runtimesecret $(GO) build ./...

race:
	$(GO) test -race ./...

# The build with erased execution, as our binaries are made.
erased:
	GOEXPERIMENT=runtimesecret $(GO) test ./...

# Against MIT's and Heimdal's programs; installs Debian packages when root.
interop:
	cd interop && ./run.sh

# Ratios against MIT's library, TLS tickets, bare exchanges, plain handoffs, Apache.
bench:
	interop/needs.sh gcc libc6-dev pkg-config libkrb5-dev krb5-kdc krb5-admin-server krb5-user apache2 libapache2-mod-auth-gssapi
	$(MAKE) -s -C interop bin/mitbench bin/withkdc bin/webbench bin/gssbench
	$(GO) build -o bin/bench ./internal/bench
	interop/bin/withkdc bin/bench -rounds $(ROUNDS)

# Resources end where they were, after minutes of handovers and rotation.
soak:
	$(GO) test ./internal/soak -count=1 -v -soak $(SOAK) -timeout 30m

# Every state of the models of ownership and of the count, and of their broken
# variants. MODEL=all: the larger sizes too.
model:
	doc/model/run.sh $(MODEL)

fuzz:
	./fuzz/run.sh $(FUZZTIME)
