#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER (4 * (WIRE_MAX + WIRE_HEAD))
#define PATIENCE 60000	/* ms without a byte in either direction */

struct duplex {
	struct peer *p;
	uint64_t sent, received;	/* numbers of the next messages */
	uint8_t *out, *in;		/* BUFFER bytes each */
	size_t outlen, inlen;
	char *why;
	size_t whylen;
};

/* Protect the next message and queue its frame. */
static int
queue_next(struct duplex *d)
{
	uint8_t msg[WIRE_MESSAGE_MAX];
	struct bytes body;
	char kind = wire_kind(d->sent);
	size_t len = wire_message(msg, d->p->out, d->sent);
	OM_uint32 major = gss_protect(d->p, kind, msg, len, &body);

	if (major != GSS_S_COMPLETE) {
		snprintf(d->why, d->whylen, "protecting %" PRIu64 ": %s",
		    d->sent, gss_words(major));
		return -1;
	}
	d->out[d->outlen] = (uint8_t)kind;
	wire_put32(d->out + d->outlen + 1, (uint32_t)body.len);
	memcpy(d->out + d->outlen + WIRE_HEAD, body.data, body.len);
	d->outlen += WIRE_HEAD + body.len;
	free(body.data);
	d->sent++;
	return 0;
}

/* Open one received frame, which has to be the next message. */
static int
check_frame(struct duplex *d, char kind, const struct bytes *body)
{
	struct bytes msg;
	OM_uint32 major = gss_open(d->p, kind, body, &msg);
	int right;

	if (major != GSS_S_COMPLETE) {
		snprintf(d->why, d->whylen, "opening %" PRIu64 ": %s",
		    d->received, gss_words(major));
		free(msg.data);
		return -1;
	}
	right = kind == wire_kind(d->received) &&
	    wire_is_message(msg.data, msg.len, d->p->in, d->received);
	if (!right)
		snprintf(d->why, d->whylen, "expected message %" PRIu64
		    ", got %" PRIu64 " of kind %c", d->received,
		    wire_number(msg.data, msg.len), kind);
	free(msg.data);
	d->received++;
	return right ? 0 : -1;
}

/* Take whole frames out of the input. */
static int
drain(struct duplex *d)
{
	size_t used = 0;

	while (d->inlen - used >= WIRE_HEAD) {
		uint8_t *frame = d->in + used;
		struct bytes body = { frame + WIRE_HEAD,
			wire_get32(frame + 1) };

		if (body.len > WIRE_MAX) {
			snprintf(d->why, d->whylen, "frame of %zu bytes",
			    body.len);
			return -1;
		}
		if (d->inlen - used < WIRE_HEAD + body.len)
			break;
		if (check_frame(d, (char)frame[0], &body) != 0)
			return -1;
		used += WIRE_HEAD + body.len;
	}
	memmove(d->in, d->in + used, d->inlen - used);
	d->inlen -= used;
	return 0;
}

/* Wait, then move what can be moved. */
static int
pump(struct duplex *d)
{
	struct pollfd w = { d->p->fd, POLLIN, 0 };
	ssize_t n;

	if (d->outlen > 0)
		w.events |= POLLOUT;
	n = poll(&w, 1, PATIENCE);
	if (n <= 0) {
		snprintf(d->why, d->whylen, "%s, sent %" PRIu64
		    ", received %" PRIu64, n ? strerror(errno) : "silence",
		    d->sent, d->received);
		return n < 0 && errno == EINTR ? 0 : -1;
	}
	if (w.revents & POLLOUT) {
		n = write(d->p->fd, d->out, d->outlen);
		if (n > 0) {
			memmove(d->out, d->out + n, d->outlen - (size_t)n);
			d->outlen -= (size_t)n;
		}
	}
	if (w.revents & (POLLIN | POLLHUP | POLLERR)) {
		n = read(d->p->fd, d->in + d->inlen, BUFFER - d->inlen);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			snprintf(d->why, d->whylen,
			    "connection gone, sent %" PRIu64 ", received %"
			    PRIu64, d->sent, d->received);
			return -1;
		}
		if (n > 0)
			d->inlen += (size_t)n;
	}
	return drain(d);
}

int
stream(struct peer *p, uint64_t first, uint64_t count, uint64_t window,
    char *why, size_t whylen)
{
	struct duplex d = { .p = p, .sent = first, .received = first,
		.why = why, .whylen = whylen };
	int mode = fcntl(p->fd, F_GETFL), rc = 0;

	d.out = malloc(BUFFER);
	d.in = malloc(BUFFER);
	if (d.out == NULL || d.in == NULL || mode < 0 ||
	    fcntl(p->fd, F_SETFL, mode | O_NONBLOCK) != 0) {
		snprintf(why, whylen, "no memory or no descriptor");
		rc = -1;
	}
	while (rc == 0 && d.received < first + count) {
		while (rc == 0 && d.sent < first + count &&
		    d.sent - d.received < window &&
		    BUFFER - d.outlen > WIRE_HEAD + 2 * WIRE_MESSAGE_MAX)
			rc = queue_next(&d);
		if (rc == 0)
			rc = pump(&d);
	}
	fcntl(p->fd, F_SETFL, mode);
	free(d.out);
	free(d.in);
	return rc;
}
