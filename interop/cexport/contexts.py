"""What a Python program sees of exported contexts: contexts.py sealed | plain.

It is run with and without libsealctx-gss.so. A sealed token imports once, however it
travels; a plain one imports twice."""
import multiprocessing
import os
import pickle
import sys

import gssapi
from gssapi.exceptions import GSSError

SEALED = sys.argv[1] == "sealed"
FLAGS = gssapi.RequirementFlag
NAME = gssapi.Name("e18@localhost", gssapi.NameType.hostbased_service)


def pair():
    client = gssapi.SecurityContext(name=NAME, usage="initiate", flags=[
        FLAGS.mutual_authentication, FLAGS.replay_detection, FLAGS.out_of_sequence_detection, FLAGS.confidentiality, FLAGS.integrity])
    server = gssapi.SecurityContext(usage="accept")
    server_token = None
    while not client.complete:
        client_token = client.step(server_token)
        if client_token:
            server_token = server.step(client_token)
    return client, server


def says(client, server):
    assert server.unwrap(client.wrap(b"hello", True).message).message == b"hello"


def refused(text, f):
    try:
        f()
    except GSSError as e:
        assert text in str(e), e
    else:
        assert not SEALED, "imported twice"


def child(token, message):
    server = gssapi.SecurityContext(token=token)
    assert server.unwrap(message).message == b"hello"


def main():
    client, server = pair()
    token = server.export()
    assert token.startswith(b"SLCX") == SEALED
    try:
        server.lifetime
    except GSSError:
        pass
    else:
        raise AssertionError("an exported context answers")
    server = gssapi.SecurityContext(token=token)  # 1
    says(client, server)
    refused("sealctx: the token was imported before", lambda: gssapi.SecurityContext(token=token))

    pickled = pickle.dumps(server)
    server = pickle.loads(pickled)  # 2
    says(client, server)
    refused("sealctx: the token was imported before", lambda: pickle.loads(pickled))

    # A forked child and a spawned program take the context with them.
    token, message = server.export(), client.wrap(b"hello", True).message
    pid = os.fork()
    if pid == 0:
        child(token, message)  # 3
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    client, server = pair()
    token, message = server.export(), client.wrap(b"hello", True).message
    spawned = multiprocessing.get_context("spawn").Process(target=child, args=(token, message))  # 4
    spawned.start()
    spawned.join()
    assert spawned.exitcode == 0

    if SEALED:
        client, server = pair()
        token = server.export()
        altered = bytearray(token)
        altered[50] ^= 1
        refused("sealctx: the token is no sealed token", lambda: gssapi.SecurityContext(token=bytes(altered)))
        refused("sealctx: the token is not sealed", lambda: gssapi.SecurityContext(token=b"plain token"))
        says(client, gssapi.SecurityContext(token=token))  # 5
    print("ok")


if __name__ == "__main__":
    main()
