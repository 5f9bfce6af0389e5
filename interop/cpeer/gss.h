/*
 * GSS-API calls of the C peer: establishment, protection, and the statuses in
 * words. Written against RFC 2744 and what MIT and Heimdal have in common.
 */
#ifndef SEALCTX_GSS_H
#define SEALCTX_GSS_H

#include "wire.h"

#include <gssapi/gssapi.h>
#ifndef HEIMDAL
#include <gssapi/gssapi_ext.h>
#endif

struct peer {
	int fd;
	gss_ctx_id_t ctx;
	char out;	/* direction of what this side sends: 'i' or 'a' */
	char in;
	gss_channel_bindings_t bindings;	/* of the next establishment */
};

/* Major status as words joined with '+': "complete", "gap", "duplicate+bad-mic"
 * and so on; valid until the next call. */
const char *gss_words(OM_uint32 major);

/* The words, and what the mechanism says of minor; valid until the next call. */
const char *gss_explain(OM_uint32 major, OM_uint32 minor);

/* Establish over p->fd. On failure the status is left in major and minor;
 * -1 with major GSS_S_COMPLETE is the connection's fault. */
int gss_initiate(struct peer *p, const char *service, OM_uint32 flags,
    OM_uint32 *major, OM_uint32 *minor);
int gss_accept(struct peer *p, OM_uint32 *major, OM_uint32 *minor);

/* Protect msg as a frame of the kind. The caller frees body->data. */
OM_uint32 gss_protect(struct peer *p, char kind, const uint8_t *msg,
    size_t len, struct bytes *body);

/* Open a frame. msg is filled where the status allows; the caller frees it. */
OM_uint32 gss_open(struct peer *p, char kind, const struct bytes *body,
    struct bytes *msg);

/* Export and import the own context, in place. */
OM_uint32 gss_travel(struct peer *p, size_t *toklen);

/* The session key, for tests that search a process for it. */
OM_uint32 gss_session_key(struct peer *p, struct bytes *key);

#endif
