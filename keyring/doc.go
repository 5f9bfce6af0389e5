// Package keyring holds this host's epochs; programs do not import it but package
// seal, and this page is for reviewers. An [Epoch] is a key and the register of the
// tokens that were sealed under it: one object, made, loaded, rotated and retired
// together. No key outlives its register. So a token is worth nothing after a reboot,
// in a wiped runtime directory, or once its epoch is retired.
//
// [Open] keeps epochs in files of a tmpfs directory that one user's processes
// share. Whichever process is first makes an epoch, the others adopt it, and
// running processes learn of a rotation or a retirement without a restart.
// [New] keeps them in the memory of one process: the agent's.
//
// # The register
//
// The register is a list of what is outstanding, not of what was used: a token
// carries a slot's index and its word, and only a slot that holds exactly that
// word lets the token in. One 64-bit word a slot:
//
//	bit 63        24 23            2 1     0
//	generation : 40 | expiry : 22   | state : 2
//
//	generation  how often the slot was reserved; never goes back. A slot whose
//	            generation is used up is not reserved again.
//	expiry      whole seconds after the epoch's birth, rounded down, plus 1; zero
//	            when FREE or SPENT
//	state       1 FREE, 2 OUT, 3 SPENT; 0 never occurs, so that zeroed memory is
//	            damage and not a free slot
//
// Every change is one atomic operation on the whole word, so there is no
// half-written state:
//
//	reserve   FREE g, or OUT g past its expiry  ->  OUT g+1
//	claim     OUT g  ->  FREE g      (also cancel and take-back: one and the same)
//	tidy      OUT g past its expiry  ->  FREE g   (part of a recount)
//	sweep     any    ->  SPENT       (retirement)
//
// The claim is the only linearisation point of ownership. Of any number of
// claimants in any number of processes one swap succeeds; the others find
// another word. A reserve that takes over an expired slot bumps the generation,
// so a late claim of the old token fails. A process that stops or dies
//
//   - before reserve's swap: leaves nothing;
//   - after it: leaves a slot that is taken over once it has expired;
//   - before claim's swap: leaves the token claimable by any process that holds it;
//   - after it: has spent the token; nothing ever gives a claim back;
//   - in the middle of a retirement: leaves the epoch DEAD; the next process that
//     finds it finishes the sweep, which can be repeated.
//
// After reserve's swap the state of the epoch is read again: either the
// exporter sees DEAD, or the sweep sees its slot.
//
// # Trust
//
// Code that runs as the directory's owner can read the key and rewrite words:
// same user, same trust. Against it nothing here helps; one owner then holds
// against crashes and honest races. Different users are the agent's job.
package keyring
