package seal

import "fmt"

// AppendBinary appends the audience as the agent's protocol has it: its kind,
// one byte, and its value; a single zero for the zero audience. It never fails.
func (a Audience) AppendBinary(b []byte) ([]byte, error) {
	return append(append(b, a.kind), a.value...), nil
}

// MarshalBinary is AppendBinary to nothing.
func (a Audience) MarshalBinary() ([]byte, error) { return a.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary writes. It returns ErrAudience for
// anything else.
func (a *Audience) UnmarshalBinary(b []byte) error {
	if len(b) == 1 && b[0] == 0 {
		*a = Audience{}
		return nil
	}
	if len(b) == 0 || !(Audience{b[0], string(b[1:])}).valid() {
		return fmt.Errorf("%w: no such audience", ErrAudience)
	}
	*a = Audience{b[0], string(b[1:])}
	return nil
}
