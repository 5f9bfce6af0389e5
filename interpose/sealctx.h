/*
 * What the three parts of libsealctx-gss share: the agent's client, the
 * configuration, and the GSS-API functions that use both.
 */
#ifndef SEALCTX_H
#define SEALCTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* Limits of doc/agent-protocol.md and doc/SPEC.md, in bytes. */
enum {
	HEADER = 12,         /* of a frame */
	MAX_FRAME = 65536,   /* with its header */
	MAX_PLAIN = 49151,   /* a plain token */
	MAX_START = 512,     /* header, context and commitment of a token */
	MAX_TEXT = 200,      /* what is kept of a refusal's text */
	PATH_SIZE = 108,     /* of a socket's path, with its zero: sun_path */
};

/* A fault is an agent's status (doc/agent-protocol.md, section 4), or one of this side. */
enum fault {
	OK = 0,
	DEFECTIVE = 1,
	EXPIRED = 2,
	UNAUTHORIZED = 3,
	OTHER_FORMAT = 4,
	SPENT = 5,
	REFUSED = 9,
	NOT_YOU = 12,
	STATUS_LOST = 15,
	LAST_STATUS = STATUS_LOST,
	AWAY = 32,      /* no agent answers */
	UNCERTAIN,      /* the agent went away during an open */
	IMPOSTOR,       /* the socket's path or its listener is not to be trusted */
	PROTOCOL,       /* the answer is not the protocol's */
	CONFIG,         /* the configuration cannot be used */
	NOT_SEALED,     /* a plain token, and accept-plain is not set */
	LOST,           /* the context was given up and could not be restored */
	NO_LIBRARY,     /* no GSS-API library is loaded */
	NO_MEMORY,
	TOO_LARGE,      /* the mechanism's token */
	LAST_FAULT = TOO_LARGE,
};

/* The configuration of this process. It does not change after the library was loaded. */
struct config {
	char socket[PATH_SIZE]; /* the agent's, an absolute path */
	uint64_t lifetime;     /* of a token, ns; 0: the agent's default */
	uint8_t audience[66];  /* kind and value; of length 0: this user */
	size_t audience_size;
	bool accept_plain;     /* import plain tokens too, for a migration */
	bool off;              /* leave this program alone */
	bool bad;              /* the file cannot be used, and problem says why */
	char problem[MAX_TEXT];
};

extern HIDDEN struct config config;

/* Reports whether only root, and the user own, can put something else at path. */
HIDDEN bool trusted_path(const char *path, unsigned own, unsigned *owner);

/* A connection to the agent, for one call. frame is MAX_FRAME bytes, wiped by hang_up. */
struct agent {
	int fd;
	int64_t deadline; /* ns, CLOCK_MONOTONIC */
	uint8_t *frame;
	char text[MAX_TEXT]; /* of the last refusal, printable ASCII */
};

/* Connects. On any result hang_up must follow. */
HIDDEN enum fault dial(struct agent *a);
HIDDEN void hang_up(struct agent *a);

/* Reserves a token; start has room for MAX_START bytes. */
HIDDEN enum fault reserve(struct agent *a, const char *format, uint8_t *start, size_t *start_size);

/* Seals plain. The token is in a->frame until the next call; at and size say where. */
HIDDEN enum fault seal(struct agent *a, const uint8_t *start, size_t start_size,
		       const void *plain, size_t plain_size, const uint8_t **at, size_t *size);

/* Opens a token of one of two formats; the plain one is in a->frame, likewise. */
HIDDEN enum fault open_token(struct agent *a, const char *const formats[2], const void *token, size_t token_size,
			     const uint8_t **at, size_t *size);

#endif
