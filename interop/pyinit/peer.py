#!/usr/bin/python3
"""One side of a handshake over python3-gssapi, for the interop tests.

    peer.py initiate SERVICE [delegate] [bind=TEXT]   prints the first token, in hexadecimal
    peer.py accept TOKEN CCACHE                       takes one; stores what is delegated;
                                                      prints the client and the delegated client
    peer.py name EXPORTED                             imports an exported name, prints its export
"""

import sys

import gssapi
from gssapi.raw import ChannelBindings

KRB5 = gssapi.MechType.kerberos


def initiate(service, *options):
    flags = [gssapi.RequirementFlag.integrity]
    bindings = None
    for option in options:
        if option == "delegate":
            flags.append(gssapi.RequirementFlag.delegate_to_peer)
        elif option.startswith("bind="):
            bindings = ChannelBindings(application_data=option[5:].encode())
    context = gssapi.SecurityContext(
        name=gssapi.Name(service, gssapi.NameType.hostbased_service),
        usage="initiate",
        mech=KRB5,
        flags=flags,
        channel_bindings=bindings,
    )
    print(context.step().hex())


def accept(token, ccache):
    context = gssapi.SecurityContext(usage="accept")
    context.step(bytes.fromhex(token))
    delegated = context.delegated_creds
    print(context.initiator_name, delegated.name if delegated else "-")
    if delegated:
        delegated.store({"ccache": "FILE:" + ccache}, usage="initiate", overwrite=True)


def name(exported):
    imported = gssapi.Name(token=bytes.fromhex(exported))
    print(imported.canonicalize(KRB5).export().hex())


if __name__ == "__main__":
    {"initiate": initiate, "accept": accept, "name": name}[sys.argv[1]](*sys.argv[2:])
