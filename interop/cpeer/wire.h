/*
 * The wire of the interop tests, the same as package wire in Go: frames of a
 * kind (1 byte), a length (4, big-endian) and a body, and messages whose every
 * byte both sides can predict.
 */
#ifndef SEALCTX_WIRE_H
#define SEALCTX_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define WIRE_HEAD 5
#define WIRE_MAX (128u << 10)	/* longest body of a frame */
#define WIRE_MESSAGE_MAX 65536	/* longest message */
#define WIRE_LARGE (UINT64_C(1) << 40)	/* number from which all are that long */

/* Kinds of frames. */
#define WIRE_TOKEN 'T'
#define WIRE_SEALED 'W'
#define WIRE_SIGNED 'S'
#define WIRE_MIC 'M'

struct bytes {
	uint8_t *data;
	size_t len;
};

uint32_t wire_get32(const uint8_t *p);
void wire_put32(uint8_t *p, uint32_t v);

/* The kind that message number n of a stream has. */
char wire_kind(uint64_t n);

/* Message number n of the direction 'i' or 'a' into m, of WIRE_MESSAGE_MAX
 * bytes; answers its length. */
size_t wire_message(uint8_t *m, char direction, uint64_t n);

/* 1 if m is exactly message n of the direction. */
int wire_is_message(const uint8_t *m, size_t len, char direction, uint64_t n);

/* The number that a message claims; UINT64_MAX if it is too short for one. */
uint64_t wire_number(const uint8_t *m, size_t len);

/* Send or receive one frame, blocking. 0, or -1. The receiver frees body. */
int wire_write(int fd, char kind, const uint8_t *body, size_t len);
int wire_read(int fd, char *kind, struct bytes *body);

/* A MIC frame's body: length of the message, the message, its MIC. */
int wire_join_mic(struct bytes *out, const uint8_t *msg, size_t msglen,
    const uint8_t *mic, size_t miclen);
int wire_split_mic(const struct bytes *body, struct bytes *msg,
    struct bytes *mic);

#endif
