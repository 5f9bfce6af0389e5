//go:build linux && goexperiment.runtimesecret && (amd64 || arm64)

package memscan

import "runtime/secret"

func erase(f func()) { secret.Do(f) }
