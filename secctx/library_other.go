//go:build !linux

package secctx

// sealedBelow: the library for C programs is for Linux.
func sealedBelow() error { return nil }

// gssLibraries knows nothing here, so providers over a C library need Config.Format.
func gssLibraries() (linked string, all []string, err error) { return "", nil, nil }
