package secctx

import (
	"errors"
	"reflect"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"
)

// errNothing stands for a result that is nil although there was no error.
var errNothing = status(gssapi.ErrFailure, errors.New("secctx: the provider or the sealer returned nil and no error, which is a fault of its own"))

// answer is the place that every result of a wrapped provider, of its contexts and
// of the sealer passes. It makes nil an error. A nil pointer in an interface is nil
// too, though it compares as not nil. What comes beside an error is passed on.
func answer[T any](v T, err error) (T, error) {
	v = optional(v)
	if err == nil && isNil(v) {
		err = errNothing
	}
	return v, err
}

// answers is answer for a list, which may be empty but holds no nil.
func answers[T any](list []T, err error) ([]T, error) {
	if err == nil && slices.ContainsFunc(list, func(v T) bool { return isNil(v) }) {
		return nil, errNothing
	}
	return list, err
}

// optional returns v, or nil if v is nil by isNil: for what may be absent.
func optional[T any](v T) T {
	if isNil(v) {
		var none T
		return none
	}
	return v
}

// isNil reports whether v is nil, or an interface that holds a nil value.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Slice, reflect.UnsafePointer:
		return r.IsNil()
	}
	return false
}
