package blind

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHandler(t *testing.T) {
	for function, want := range map[string]bool{
		"github.com/golang-auth/go-gssapi/v3/http.(*Handler).negotiateOnce": true,
		"github.com/golang-auth/go-gssapi/v3/http.(*Handler).ServeHTTP":     true,
		"github.com/golang-auth/go-gssapi/v4/http.(*Handler).negotiate":     true,
		"example.org/fork/go-gssapi/v3/http.(*Handler).negotiateOnce":       true,
		"github.com/golang-auth/go-gssapi/v3/http.(*GSSAPITransport).Round": false,
		"net/http.(*ServeMux).ServeHTTP":                                    false,
		"example.org/app/http.(*Handler).ServeHTTP":                         false,
		"": false,
	} {
		require.Equal(t, want, isHandler(function), function)
	}
	require.False(t, Handler())
}
