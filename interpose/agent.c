/*
 * The agent's client (doc/agent-protocol.md). One connection serves one call, so
 * that there is nothing to share between threads or to repair after a fork.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sealctx.h"

enum { STATUS = 6, PREPARE = 9, SEAL = 10, OPEN_ANY = 11 };

#define SECOND INT64_C(1000000000)

/*
 * A call waits PATIENCE for the agent. After a call has waited in vain, calls first ask
 * how the agent is and wait only HASTE for that, until one of them is answered. So a
 * program that exports a thousand contexts as it stops does not wait a thousand times,
 * and no token is sent to an agent that might open it after the call has given up.
 */
#ifndef PATIENCE
#define PATIENCE (5 * SECOND)
#endif
#define HASTE (SECOND / 10)
static atomic_bool stands_still;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

/*
 * Every directory above path belongs to root or to own, and is not writable by others.
 * A sticky one may be, if the next belongs to root or own. The last directory may
 * belong to any user, which owner is set to, if the one above is not writable by others.
 */
bool trusted_path(const char *path, unsigned own, unsigned *owner)
{
	char part[PATH_SIZE];
	bool vouched = true; /* the directory above lets nobody replace this one */
	if (path[0] != '/' || strlen(path) >= sizeof part || strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../"))
		return false;
	const char *last = strrchr(path, '/');
	for (const char *end = path; end; end = end == last ? NULL : strchr(end + 1, '/')) {
		struct stat st;
		size_t n = end == path ? 1 : (size_t)(end - path);
		memcpy(part, path, n);
		part[n] = 0;
		if (lstat(part, &st) || !S_ISDIR(st.st_mode))
			return false;
		bool ours = st.st_uid == 0 || st.st_uid == own, open_to_all = st.st_mode & 022;
		if (!ours && (end != last || !vouched))
			return false;
		if (open_to_all && (end == last || !(st.st_mode & S_ISVTX)))
			return false;
		vouched = !open_to_all;
		*owner = st.st_uid;
	}
	return true;
}

/* Waits until the socket is ready or the time is over. */
static bool ready(struct agent *a, short events)
{
	for (;;) {
		int64_t left = a->deadline - now();
		struct pollfd p = { .fd = a->fd, .events = events };
		int n = left > 0 ? poll(&p, 1, (int)(left / 1000000 + 1)) : 0;
		if (n > 0)
			return true;
		if (n == 0 || errno != EINTR) {
			atomic_store(&stands_still, true);
			return false;
		}
	}
}

static enum fault connected(struct agent *a)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	unsigned owner = 0;
	struct ucred peer;
	socklen_t size = sizeof peer;
	strcpy(to.sun_path, config.socket);
	if (!trusted_path(config.socket, geteuid(), &owner))
		return access(config.socket, F_OK) ? AWAY : IMPOSTOR;
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (a->fd >= 0 && a->fd < 3) { /* closed standard streams: no output must go to the agent */
		int low = a->fd;
		a->fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
		close(low);
	}
	if (a->fd < 0)
		return AWAY;
	/* A full backlog lets connect wait: as long as the time to send allows. */
	do {
		int64_t left = (a->deadline - now()) / 1000;
		struct timeval limit = { .tv_sec = left / 1000000, .tv_usec = left % 1000000 };
		errno = EAGAIN;
		if (left > 0 && setsockopt(a->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit))
			return AWAY;
		if (left > 0 && !connect(a->fd, (void *)&to, sizeof to))
			errno = 0;
	} while (errno == EINTR);
	if (errno == EAGAIN)
		atomic_store(&stands_still, true);
	if (errno)
		return AWAY;
	if (getsockopt(a->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || (peer.uid != 0 && peer.uid != owner))
		return IMPOSTOR;
	return OK;
}

void hang_up(struct agent *a)
{
	if (a->fd >= 0) {
		shutdown(a->fd, SHUT_RDWR); /* a child of another thread may hold a copy */
		close(a->fd);
	}
	if (a->frame)
		explicit_bzero(a->frame, MAX_FRAME);
	free(a->frame);
}

/* Sends n bytes. The first carry who sends, with the effective user. */
static bool send_all(struct agent *a, size_t n)
{
	union { char room[CMSG_SPACE(sizeof(struct ucred))]; struct cmsghdr align; } control = { 0 };
	struct ucred self = { .pid = getpid(), .uid = geteuid(), .gid = getegid() };
	for (size_t sent = 0; sent < n;) {
		struct iovec part = { .iov_base = a->frame + sent, .iov_len = n - sent };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_CREDENTIALS, c->cmsg_len = CMSG_LEN(sizeof self);
		memcpy(CMSG_DATA(c), &self, sizeof self);
		ssize_t k = sendmsg(a->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (k > 0)
			sent += (size_t)k;
		else if (errno == EAGAIN ? !ready(a, POLLOUT) : errno != EINTR)
			return false;
	}
	return true;
}

static bool receive_all(struct agent *a, size_t from, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t k = recv(a->fd, a->frame + from + got, n - got, MSG_DONTWAIT);
		if (k > 0)
			got += (size_t)k;
		else if (k == 0 || (errno == EAGAIN ? !ready(a, POLLIN) : errno != EINTR))
			return false;
	}
	return true;
}

/* Integers are big-endian. put and get do not know where the frame ends: their callers do. */
static uint8_t *put(uint8_t *p, int bytes, uint64_t v)
{
	for (int i = bytes - 1; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
	return p + bytes;
}

static uint8_t *put_data(uint8_t *p, int bytes, const void *data, size_t n)
{
	p = put(p, bytes, n);
	if (n > 0)
		memcpy(p, data, n);
	return p + n;
}

static uint64_t get(const uint8_t *p, int bytes)
{
	uint64_t v = 0;
	while (bytes-- > 0)
		v = v << 8 | *p++;
	return v;
}

/* Keeps what a refusal says. It is text for people from another process: ASCII only. */
static void keep_text(struct agent *a, size_t body)
{
	const uint8_t *p = a->frame + HEADER;
	size_t n = body >= 6 ? get(p + 4, 2) : 0;
	if (n > body - 6 || body < 6)
		n = 0;
	if (n > sizeof a->text - 1)
		n = sizeof a->text - 1;
	for (size_t i = 0; i < n; i++)
		a->text[i] = p[6 + i] >= ' ' && p[6 + i] <= '~' ? (char)p[6 + i] : '?';
	a->text[n] = 0;
}

/* Sends the request whose body ends at end, and reads the answer's body, of size bytes. */
static enum fault ask(struct agent *a, int op, const uint8_t *end, size_t *size)
{
	static const uint8_t magic[] = { 'S', 'L', 'X', 'A', 1 };
	size_t n = (size_t)(end - a->frame);
	memcpy(a->frame, magic, sizeof magic);
	a->frame[5] = (uint8_t)op, a->frame[6] = 0, a->frame[7] = 0;
	put(a->frame + 8, 4, n - HEADER);
	bool sent = send_all(a, n); /* an agent that refuses the connection answers what it did not read */
	explicit_bzero(a->frame, n);
	if (!receive_all(a, 0, HEADER))
		return sent ? UNCERTAIN : AWAY;
	uint8_t status = a->frame[7];
	*size = get(a->frame + 8, 4);
	if (memcmp(a->frame, magic, sizeof magic) || a->frame[6] != 1 || *size > MAX_FRAME - HEADER)
		return PROTOCOL;
	if (!receive_all(a, HEADER, *size))
		return UNCERTAIN;
	atomic_store(&stands_still, false);
	if (status == OK)
		return a->frame[5] == op ? OK : PROTOCOL;
	keep_text(a, *size);
	return status <= LAST_STATUS ? (enum fault)status : PROTOCOL;
}

enum fault dial(struct agent *a)
{
	bool haste = atomic_load(&stands_still);
	size_t size;
	a->fd = -1;
	a->text[0] = 0;
	a->deadline = now() + (haste ? HASTE : PATIENCE);
	a->frame = malloc(MAX_FRAME);
	if (!a->frame)
		return NO_MEMORY;
	enum fault f = connected(a);
	if (f == OK && haste) {
		f = ask(a, STATUS, a->frame + HEADER, &size);
		a->deadline = now() + PATIENCE;
	}
	return f == UNCERTAIN ? AWAY : f;
}

enum fault reserve(struct agent *a, const char *format, uint8_t *start, size_t *start_size)
{
	size_t size;
	uint8_t *p = put(a->frame + HEADER, 8, config.lifetime);
	p = put(p, 1, 1); /* one token */
	p = put_data(p, 2, "", 0); /* of no mechanism: the agent's tokens name the format */
	p = put_data(p, 2, format, strlen(format));
	p = put_data(p, 2, config.audience, config.audience_size);
	enum fault f = ask(a, PREPARE, p, &size);
	if (f != OK)
		return f == UNCERTAIN ? AWAY : f; /* a reservation that nobody uses expires */
	*start_size = size >= 3 ? get(a->frame + HEADER + 1, 2) : 0;
	if (*start_size == 0 || *start_size > MAX_START || size != 3 + *start_size || a->frame[HEADER] != 1)
		return PROTOCOL;
	memcpy(start, a->frame + HEADER + 3, *start_size);
	return OK;
}

/* Finds the one field, of 32 bits of length, that an answer of size bytes consists of. */
static enum fault field(struct agent *a, size_t size, const uint8_t **at, size_t *n)
{
	if (size < 4 || get(a->frame + HEADER, 4) != size - 4)
		return PROTOCOL;
	*at = a->frame + HEADER + 4, *n = size - 4;
	return OK;
}

enum fault seal(struct agent *a, const uint8_t *start, size_t start_size,
		const void *plain, size_t plain_size, const uint8_t **at, size_t *size)
{
	uint8_t *p = put_data(a->frame + HEADER, 2, start, start_size);
	p = put_data(p, 4, plain, plain_size);
	enum fault f = ask(a, SEAL, p, size);
	if (f == OK)
		f = field(a, *size, at, size);
	if (f == OK && (*size <= start_size || memcmp(*at, start, start_size)))
		f = PROTOCOL; /* not the token that was reserved */
	return f == UNCERTAIN ? AWAY : f; /* a token that nobody got expires */
}

enum fault open_token(struct agent *a, const char *const formats[2], const void *token, size_t token_size,
		      const uint8_t **at, size_t *size)
{
	uint8_t *p = put(a->frame + HEADER, 1, 2);
	p = put_data(p, 2, formats[0], strlen(formats[0]));
	p = put_data(p, 2, formats[1], strlen(formats[1]));
	if (token_size > (size_t)(a->frame + MAX_FRAME - p - 4))
		return DEFECTIVE;
	p = put_data(p, 4, token, token_size);
	enum fault f = ask(a, OPEN_ANY, p, size);
	return f == OK ? field(a, *size, at, size) : f;
}
