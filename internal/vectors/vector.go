package vectors

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The classes of what comes of opening a token. doc/SPEC.md gives each its error
// and GSS status.
const (
	Success      = "success"
	Malformed    = "malformed"
	UnknownEpoch = "unknown-epoch"
	WrongSuite   = "wrong-suite"
	Header       = "header-not-authentic"
	Body         = "body-altered"
	Expired      = "expired"
	Unauthorized = "unauthorized"
	WrongFormat  = "wrong-format"
	Spent        = "spent"
)

// A Vector is a token, the surroundings in which it is opened, and the result.
type Vector struct {
	Name    string // the file's, without .txt
	Comment string
	Expect  string // a class
	Action  string // "open" or "take-back"

	HostKey []byte // of the only epoch there is
	Epoch   []byte // its id
	Suite   uint8  // its suite
	Slots   uint32 // of its register, all of them fresh but one:
	Slot    uint32
	Word    uint64 // what that one holds

	Now     *uint64 // nanoseconds since boot; nil: whatever the clock says
	User    uint32  // who opens
	Process []byte  // who opens, as the value of an audience of kind 4
	Format  string  // the plain format that is asked for

	KEnc, KCom  []byte // nil for what does not parse
	PlainLength int    // of a success, as is the next
	PlainSHA256 []byte
	Token       []byte
}

// field is one line of a vector's file; get returns "" for one that is left out.
type field struct {
	name string
	get  func(*Vector) string
	set  func(*Vector, string) error
}

// fields are the lines of a file, in their order.
var fields = []field{
	textField("comment", func(v *Vector) *string { return &v.Comment }),
	textField("expect", func(v *Vector) *string { return &v.Expect }),
	textField("action", func(v *Vector) *string { return &v.Action }),
	bytesField("host-key", func(v *Vector) *[]byte { return &v.HostKey }),
	bytesField("epoch", func(v *Vector) *[]byte { return &v.Epoch }),
	numberField("suite", 8, func(v *Vector) *uint8 { return &v.Suite }),
	numberField("register-slots", 32, func(v *Vector) *uint32 { return &v.Slots }),
	numberField("slot", 32, func(v *Vector) *uint32 { return &v.Slot }),
	{"slot-word",
		func(v *Vector) string { return fmt.Sprintf("%016x", v.Word) },
		func(v *Vector, s string) (err error) { v.Word, err = strconv.ParseUint(s, 16, 64); return err }},
	{"now",
		func(v *Vector) string {
			if v.Now == nil {
				return ""
			}
			return strconv.FormatUint(*v.Now, 10)
		},
		func(v *Vector, s string) error {
			now, err := strconv.ParseUint(s, 10, 64)
			v.Now = &now
			return err
		}},
	numberField("user", 32, func(v *Vector) *uint32 { return &v.User }),
	bytesField("process", func(v *Vector) *[]byte { return &v.Process }),
	textField("format", func(v *Vector) *string { return &v.Format }),
	bytesField("k-enc", func(v *Vector) *[]byte { return &v.KEnc }),
	bytesField("k-com", func(v *Vector) *[]byte { return &v.KCom }),
	{"plain-length",
		func(v *Vector) string {
			if v.PlainSHA256 == nil {
				return ""
			}
			return strconv.Itoa(v.PlainLength)
		},
		func(v *Vector, s string) (err error) { v.PlainLength, err = strconv.Atoi(s); return err }},
	bytesField("plain-sha256", func(v *Vector) *[]byte { return &v.PlainSHA256 }),
	bytesField("token", func(v *Vector) *[]byte { return &v.Token }),
}

func textField(name string, at func(*Vector) *string) field {
	return field{name,
		func(v *Vector) string { return *at(v) },
		func(v *Vector, s string) error { *at(v) = s; return nil }}
}

func bytesField(name string, at func(*Vector) *[]byte) field {
	return field{name,
		func(v *Vector) string { return hex.EncodeToString(*at(v)) },
		func(v *Vector, s string) (err error) { *at(v), err = hex.DecodeString(s); return err }}
}

func numberField[T uint8 | uint32](name string, bits int, at func(*Vector) *T) field {
	return field{name,
		func(v *Vector) string { return strconv.FormatUint(uint64(*at(v)), 10) },
		func(v *Vector, s string) error {
			n, err := strconv.ParseUint(s, 10, bits)
			*at(v) = T(n)
			return err
		}}
}

// Marshal returns the vector as a file.
func (v *Vector) Marshal() []byte {
	var b bytes.Buffer
	for _, f := range fields {
		if s := f.get(v); s != "" {
			fmt.Fprintf(&b, "%s: %s\n", f.name, s)
		}
	}
	return b.Bytes()
}

// Parse reads a file back. It refuses what Marshal would not write: unknown or
// repeated fields, another order, another spelling.
func Parse(name string, text []byte) (*Vector, error) {
	v := &Vector{Name: name}
	known := map[string]field{}
	for _, f := range fields {
		known[f.name] = f
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		f, found := known[key]
		if !ok || !found {
			return nil, fmt.Errorf("vectors: %s: no field in %.60q", name, line)
		}
		if err := f.set(v, value); err != nil {
			return nil, fmt.Errorf("vectors: %s: %s: %w", name, key, err)
		}
	}
	if !bytes.Equal(v.Marshal(), text) {
		return nil, fmt.Errorf("vectors: %s: not as it would be written", name)
	}
	return v, nil
}

// Read reads every vector of a directory. Finding none is an error.
func Read(dir string) ([]*Vector, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("vectors: none in %s", dir)
	}
	var all []*Vector
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		v, err := Parse(strings.TrimSuffix(filepath.Base(path), ".txt"), text)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}
