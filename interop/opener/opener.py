#!/usr/bin/python3
"""A second opener of sealed tokens, written from doc/SPEC.md alone.

    opener.py vectors DIRECTORY                 check every vector
    opener.py open RINGDIR FORMAT [TOKENFILE]   what opening it now would give
    opener.py take-back RINGDIR FORMAT [TOKENFILE]

The last two read the epochs of a runtime directory and tokens in hexadecimal,
one a line, from a file or standard input. For each they print a class of SPEC
section 9, and after "success" the length and SHA-256 of the plain token. They
do not claim: Python has no compare-and-swap on shared memory.

It keeps keys in ordinary memory: for checking the format, not for use.
"""

import glob
import hashlib
import hmac
import os
import re
import stat
import struct
import sys
import time
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SIZES = (512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152)
MAX_TOKEN = 49497
SUITES = {1: AESGCM, 2: ChaCha20Poly1305}
FREE, OUT = 1, 2
OPEN, CLOSED, DEAD = 1, 2, 3
SECOND = 10**9
DAY = 86400 * SECOND


class Refused(Exception):
    """A token that does not open; str() is its class."""


class Cursor:
    """Reads a token from its front; running out of bytes is malformed."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise Refused("malformed")
        self.at += n
        return self.data[self.at - n : self.at]

    def integer(self, size):
        return int.from_bytes(self.take(size), "big")

    def counted(self, most, least=0):
        n = self.integer(1)
        if not least <= n <= most:
            raise Refused("malformed")
        return self.take(n)


@dataclass
class Token:
    """Section 2."""

    version: int
    epoch: bytes
    slot: int
    word: int
    expires: int
    format: bytes
    exporter: int
    kind: int
    audience: bytes
    bound: bytes
    commitment: bytes
    additional: bytes
    nonce: bytes
    sealed: bytes  # body and tag


def parse(data):
    if len(data) > MAX_TOKEN:
        raise Refused("malformed")
    c = Cursor(data)
    if c.take(4) != b"SLCX":
        raise Refused("malformed")
    version, epoch, slot, word = c.integer(1), c.take(16), c.integer(4), c.integer(8)
    c.take(32)  # salt
    issued, expires = c.integer(8), c.integer(8)
    c.counted(64)  # mechanism
    name = c.counted(64, least=1)
    exporter, kind, audience = c.integer(4), c.integer(1), c.counted(64)
    bound = data[: c.at]
    commitment, length = c.take(32), c.integer(4)
    additional = data[: c.at]
    good = (
        version in SUITES
        and issued < expires < 2**63
        and all(0x21 <= b <= 0x7E for b in name)
        and length in SIZES
    )
    if not good:
        raise Refused("malformed")
    nonce, sealed = c.take(12), c.take(length + 16)
    if c.at != len(data):
        raise Refused("malformed")
    return Token(version, epoch, slot, word, expires, name, exporter, kind, audience,
                 bound, commitment, additional, nonce, sealed)


def expand(key, info):
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)


def derive(host_key, bound):
    """Section 3: K_enc, K_com."""
    enc = expand(host_key, b"sealctx token enc\0" + bound)
    return enc, hashlib.sha256(b"sealctx token com\0" + enc).digest()


def unpad(body):
    """Section 4."""
    stripped = body.rstrip(b"\0")
    if not stripped.endswith(b"\x80"):
        raise Refused("body-altered")
    plain = stripped[:-1]
    if len(body) != min(size for size in SIZES if size > len(plain)):
        raise Refused("body-altered")
    return plain


@dataclass
class Epoch:
    id: bytes
    suite: int
    key: bytes
    slots: int
    words: dict = field(default_factory=dict)  # of the slots that are not fresh

    def word(self, slot):
        return self.words.get(slot, 1)


@dataclass
class Opener:
    """Who opens, when, and what it asks for."""

    epochs: dict
    now: object  # a function
    user: int
    process: bytes
    format: bytes
    take_back: bool = False

    def allowed(self, t):
        """Section 7."""
        if self.take_back:
            return t.exporter == self.user
        if t.kind == 1:
            return t.audience == struct.pack(">I", self.user)
        return t.kind == 4 and t.audience == self.process

    def open(self, data, keys=None):
        """Section 9; returns the token and its plain token. Does not claim."""
        t = parse(data)
        epoch = self.epochs.get(t.epoch)
        if epoch is None:
            raise Refused("unknown-epoch")
        if epoch.suite != t.version:
            raise Refused("wrong-suite")
        enc, com = derive(epoch.key, t.bound)
        if keys is not None:
            keys += [enc, com]
        if not hmac.compare_digest(com, t.commitment):
            raise Refused("header-not-authentic")
        try:
            body = SUITES[t.version](enc).decrypt(t.nonce, t.sealed, t.additional)
        except InvalidTag:
            raise Refused("body-altered") from None
        plain = unpad(body)
        if self.now() >= t.expires:
            raise Refused("expired")
        if not self.allowed(t):
            raise Refused("unauthorized")
        if t.format != self.format:
            raise Refused("wrong-format")
        if t.slot >= epoch.slots or t.word & 3 != OUT or epoch.word(t.slot) != t.word:
            raise Refused("spent")
        return t, plain


# --- section 12: epochs in files ---


def load_epoch(path, boot):
    """Reads and checks an epoch's file; None for one that opens nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        st = os.fstat(fd)
        data = file.read()
    if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o077 or st.st_nlink != 1:
        raise SystemExit(f"{path}: unsafe")
    if len(data) < 4096:
        return None
    (magic, form, suite, ident, its_boot, dev, ino, birth, seq, zero, outstanding, age, lifetime
     ) = struct.unpack(">8sBB16s16sQQQQ6sIQQ", data[:100])
    (state,) = struct.unpack("=I", data[256:260])
    key = data[512:544]
    in_range = (
        magic == b"SLCXRING" and form == 1 and suite in SUITES and zero == bytes(6)
        and birth < 2**62 and 1 <= outstanding <= 2**24
        and SECOND <= age <= 30 * DAY and SECOND <= lifetime <= 7 * DAY
    )
    genuine = (
        in_range and its_boot == boot and (dev, ino) == (st.st_dev, st.st_ino)
        and os.path.basename(path) == f"epoch-{seq:016x}"
        and len(data) == 4096 + 16 * outstanding
    )
    if not genuine or state not in (OPEN, CLOSED) or key == bytes(32):
        return None
    if not hmac.compare_digest(expand(key, b"sealctx epoch mac\0" + data[:100]), data[100:132]):
        return None
    words = dict(enumerate(struct.unpack(f"={2 * outstanding}Q", data[4096:])))
    return Epoch(ident, suite, key, 2 * outstanding, words)


def load_ring(directory):
    with open("/proc/sys/kernel/random/boot_id") as f:
        boot = bytes.fromhex(f.read().strip().replace("-", ""))
    epochs = {}
    for path in glob.glob(os.path.join(directory, "epoch-*")):
        if re.fullmatch("epoch-[0-9a-f]{16}", os.path.basename(path)):
            epoch = load_epoch(path, boot)
            if epoch:
                epochs[epoch.id] = epoch
    return epochs


def boot_clock():
    """Section 6."""
    offset = 0
    try:
        with open("/proc/self/timens_offsets") as f:
            lines = [line.split() for line in f]
    except FileNotFoundError:
        lines = [["boottime", "0", "0"]]
    (offset,) = [int(s) * SECOND + int(ns) for name, s, ns in lines if name in ("boottime", "7")]
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - offset


def own_process():
    """Section 7."""
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()  # from field 3 on
    return struct.pack(">IQ", os.getpid(), int(fields[22 - 3]))


def open_live(action, directory, form, source):
    opener = Opener(load_ring(directory), boot_clock, os.geteuid(), own_process(),
                    form.encode(), take_back=action == "take-back")
    for line in source:
        try:
            _, plain = opener.open(bytes.fromhex(line.strip()))
            print("success", len(plain), hashlib.sha256(plain).hexdigest())
        except Refused as refusal:
            print(refusal)


# --- section 13: vectors ---

KEYS = ("comment expect action host-key epoch suite register-slots slot slot-word now user process "
        "format k-enc k-com plain-length plain-sha256 token").split()


def read_vector(path):
    v, last = {}, -1
    with open(path, encoding="ascii") as f:
        for line in f:
            key, separator, value = line.rstrip("\n").partition(": ")
            if not separator or KEYS.index(key) <= last:
                raise ValueError(f"{path}: {line[:60]!r}")
            last = KEYS.index(key)
            v[key] = value
    return v


def check_vector(v):
    """Returns what is wrong, or nothing."""
    def binary(key):
        return bytes.fromhex(v.get(key, ""))

    slot, word = int(v["slot"]), int(v["slot-word"], 16)
    epoch = Epoch(binary("epoch"), int(v["suite"]), binary("host-key"), int(v["register-slots"]), {slot: word})
    now = int(v.get("now", "1"))
    opener = Opener({epoch.id: epoch}, lambda: now, int(v["user"]), binary("process"),
                    v["format"].encode(), take_back=v["action"] == "take-back")
    keys = []
    try:
        token, plain = opener.open(binary("token"), keys)
    except Refused as refusal:
        if str(refusal) != v["expect"]:
            return f"{refusal} instead of {v['expect']}"
        return check_keys(v, keys)
    if v["expect"] != "success":
        return f"it opened instead of {v['expect']}"
    if (str(len(plain)), hashlib.sha256(plain).hexdigest()) != (v["plain-length"], v["plain-sha256"]):
        return "another plain token"
    epoch.words[token.slot] = token.word >> 24 << 24 | FREE  # the claim
    try:
        opener.open(binary("token"))
        return "it opened twice"
    except Refused as refusal:
        if str(refusal) != "spent":
            return f"the second time {refusal}"
    return check_keys(v, keys)


def check_keys(v, keys):
    want = [bytes.fromhex(v[k]) for k in ("k-enc", "k-com") if k in v]
    return None if keys == want else "other keys"


def check_vectors(directory):
    paths = sorted(glob.glob(os.path.join(directory, "*.txt")))
    if not paths:
        raise SystemExit(f"no vectors in {directory}")
    counts, failures = {}, 0
    for path in paths:
        v = read_vector(path)
        wrong = check_vector(v)
        if wrong:
            failures += 1
            print(f"{os.path.basename(path)}: {wrong}")
        counts[v["expect"]] = counts.get(v["expect"], 0) + 1
    print(f"{len(paths)} vectors, {failures} failed:",
          ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    return failures == 0


def main(args):
    if len(args) == 2 and args[0] == "vectors":
        return check_vectors(args[1])
    if len(args) in (3, 4) and args[0] in ("open", "take-back"):
        with open(args[3]) if len(args) == 4 else sys.stdin as source:
            open_live(*args[:3], source)
        return True
    print(__doc__, file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
