#!/usr/bin/python3
"""An initiator over python3-gssapi, for the interop tests.

    initiator.py PORT SERVICE COUNT

Sends COUNT messages of the tests' stream, sealed, signed and with a detached
signature in turn, and checks that each answer is the next message of the
acceptor's stream. Package wire has the frames and the messages.
"""

import socket
import struct
import sys

import gssapi

KINDS = b"WSM"


def message(direction, n):
    filling = bytes((n + i) & 0xFF for i in range(9, 9 + n * 37 % 997))
    return direction + struct.pack(">Q", n) + filling


def read_exactly(conn, count):
    data = b""
    while len(data) < count:
        more = conn.recv(count - len(data))
        if not more:
            raise EOFError("connection lost")
        data += more
    return data


def read_frame(conn):
    kind, length = struct.unpack(">cI", read_exactly(conn, 5))
    return kind, read_exactly(conn, length)


def write_frame(conn, kind, body):
    conn.sendall(struct.pack(">cI", kind, len(body)) + body)


def establish(conn, service):
    name = gssapi.Name(service, gssapi.NameType.hostbased_service)
    flag = gssapi.RequirementFlag
    ctx = gssapi.SecurityContext(
        name=name,
        usage="initiate",
        mech=gssapi.MechType.kerberos,
        flags=[
            flag.mutual_authentication,
            flag.replay_detection,
            flag.out_of_sequence_detection,
            flag.confidentiality,
            flag.integrity,
        ],
    )
    token = None
    while not ctx.complete:
        token = ctx.step(token)
        if token:
            write_frame(conn, b"T", token)
        if not ctx.complete:
            _, token = read_frame(conn)
    return ctx


def protect(ctx, kind, msg):
    if kind == b"M":
        return struct.pack(">I", len(msg)) + msg + ctx.get_signature(msg)
    wrapped, encrypted = ctx.wrap(msg, kind == b"W")
    assert encrypted == (kind == b"W")
    return wrapped


def unprotect(ctx, kind, body):
    """The message; python-gssapi raises for every supplementary status."""
    if kind == b"M":
        (length,) = struct.unpack(">I", body[:4])
        ctx.verify_signature(body[4 : 4 + length], body[4 + length :])
        return body[4 : 4 + length]
    result = ctx.unwrap(body)
    assert result.encrypted == (kind == b"W")
    return result.message


def main():
    port, service, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    conn = socket.create_connection(("127.0.0.1", port), timeout=60)
    ctx = establish(conn, service)
    for n in range(count):
        kind = KINDS[n % 3 : n % 3 + 1]
        write_frame(conn, kind, protect(ctx, kind, message(b"i", n)))
        got, body = read_frame(conn)
        if got != kind or unprotect(ctx, kind, body) != message(b"a", n):
            raise SystemExit("answer %d is wrong" % n)
    print("%d messages each way" % count)


if __name__ == "__main__":
    main()
