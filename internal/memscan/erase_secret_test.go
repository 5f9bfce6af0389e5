//go:build linux && goexperiment.runtimesecret && (amd64 || arm64)

package memscan

import "runtime/secret"

const erasing = true

func erase(f func()) { secret.Do(f) }
