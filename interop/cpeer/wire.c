#include "wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint32_t
wire_get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	    (uint32_t)p[2] << 8 | p[3];
}

void
wire_put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

char
wire_kind(uint64_t n)
{
	static const char kinds[] = { WIRE_SEALED, WIRE_SIGNED, WIRE_MIC };

	return kinds[n % sizeof kinds];
}

size_t
wire_message(uint8_t *m, char direction, uint64_t n)
{
	size_t len = n < WIRE_LARGE ? 9 + (size_t)(n * 37 % 997) :
	    WIRE_MESSAGE_MAX;

	m[0] = (uint8_t)direction;
	wire_put32(m + 1, (uint32_t)(n >> 32));
	wire_put32(m + 5, (uint32_t)n);
	for (size_t i = 9; i < len; i++)
		m[i] = (uint8_t)(n + i);
	return len;
}

int
wire_is_message(const uint8_t *m, size_t len, char direction, uint64_t n)
{
	uint8_t want[WIRE_MESSAGE_MAX];

	return len == wire_message(want, direction, n) &&
	    memcmp(m, want, len) == 0;
}

uint64_t
wire_number(const uint8_t *m, size_t len)
{
	if (len < 9)
		return UINT64_MAX;
	return (uint64_t)wire_get32(m + 1) << 32 | wire_get32(m + 5);
}

static int
write_all(int fd, const uint8_t *p, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int
read_all(int fd, uint8_t *p, size_t len)
{
	while (len > 0) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int
wire_write(int fd, char kind, const uint8_t *body, size_t len)
{
	uint8_t head[WIRE_HEAD];

	if (len > WIRE_MAX)
		return -1;
	head[0] = (uint8_t)kind;
	wire_put32(head + 1, (uint32_t)len);
	if (write_all(fd, head, sizeof head) != 0)
		return -1;
	return write_all(fd, body, len);
}

int
wire_read(int fd, char *kind, struct bytes *body)
{
	uint8_t head[WIRE_HEAD];

	if (read_all(fd, head, sizeof head) != 0)
		return -1;
	*kind = (char)head[0];
	body->len = wire_get32(head + 1);
	if (body->len > WIRE_MAX)
		return -1;
	body->data = malloc(body->len + 1);
	if (body->data == NULL)
		return -1;
	if (read_all(fd, body->data, body->len) != 0) {
		free(body->data);
		return -1;
	}
	return 0;
}

int
wire_join_mic(struct bytes *out, const uint8_t *msg, size_t msglen,
    const uint8_t *mic, size_t miclen)
{
	out->len = 4 + msglen + miclen;
	out->data = malloc(out->len);
	if (out->data == NULL)
		return -1;
	wire_put32(out->data, (uint32_t)msglen);
	memcpy(out->data + 4, msg, msglen);
	memcpy(out->data + 4 + msglen, mic, miclen);
	return 0;
}

int
wire_split_mic(const struct bytes *body, struct bytes *msg, struct bytes *mic)
{
	if (body->len < 4)
		return -1;
	msg->len = wire_get32(body->data);
	if (msg->len > body->len - 4)
		return -1;
	msg->data = body->data + 4;
	mic->data = msg->data + msg->len;
	mic->len = body->len - 4 - msg->len;
	return 0;
}
