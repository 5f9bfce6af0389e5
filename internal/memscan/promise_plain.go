//go:build linux && !(goexperiment.runtimesecret && (amd64 || arm64))

package memscan

const erasing = false
