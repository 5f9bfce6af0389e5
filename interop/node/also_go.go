//go:build !cgo || nolibrary

package main

import "errors"

func loadAlso(string) error { return errors.New("built without a C library") }
