/*
 * A client of the agent, from doc/agent-protocol.md and doc/SPEC.md alone:
 *
 *	client SOCKET status
 *	client SOCKET seal FORMAT <plain >token
 *	client SOCKET open FORMAT <token >plain
 *	client SOCKET takeback FORMAT <token >plain
 *
 * It shows that the protocol is no secret of Go's and keeps the tests honest.
 * It offers suite 2 only, whose cipher fits in here. The exit status is the
 * agent's; 100 is a fault of this side. Not for production: it locks no memory.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 12, MAXFRAME = 65536, MAXPLAIN = 49151, KEY = 32, NONCE = 12, TAG = 16 };
enum { RESERVE = 1, OPEN = 2, TAKEBACK = 3, STATUS = 6 };

static void die(int code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(code);
}

/* Big-endian fields; put returns where the next one goes. */
static uint8_t *put(uint8_t *p, int bytes, uint64_t v)
{
	for (int i = bytes - 1; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
	return p + bytes;
}

static uint8_t *put_data(uint8_t *p, int bytes, const void *data, size_t n)
{
	p = put(p, bytes, n);
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

/* ChaCha20-Poly1305, RFC 8439. */
static uint32_t rol(uint32_t v, int n) { return v << n | v >> (32 - n); }
static uint32_t le32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

static void quarter(uint32_t *s, int a, int b, int c, int d)
{
	s[a] += s[b], s[d] = rol(s[d] ^ s[a], 16);
	s[c] += s[d], s[b] = rol(s[b] ^ s[c], 12);
	s[a] += s[b], s[d] = rol(s[d] ^ s[a], 8);
	s[c] += s[d], s[b] = rol(s[b] ^ s[c], 7);
}

static void chacha_block(const uint8_t *key, const uint8_t *nonce, uint32_t counter, uint8_t out[64])
{
	uint32_t in[16] = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }, s[16];
	for (int i = 0; i < 8; i++)
		in[4 + i] = le32(key + 4 * i);
	in[12] = counter;
	for (int i = 0; i < 3; i++)
		in[13 + i] = le32(nonce + 4 * i);
	memcpy(s, in, sizeof s);
	for (int i = 0; i < 10; i++) {
		quarter(s, 0, 4, 8, 12), quarter(s, 1, 5, 9, 13), quarter(s, 2, 6, 10, 14), quarter(s, 3, 7, 11, 15);
		quarter(s, 0, 5, 10, 15), quarter(s, 1, 6, 11, 12), quarter(s, 2, 7, 8, 13), quarter(s, 3, 4, 9, 14);
	}
	for (int i = 0; i < 16; i++) {
		s[i] += in[i];
		out[4 * i] = s[i], out[4 * i + 1] = s[i] >> 8, out[4 * i + 2] = s[i] >> 16, out[4 * i + 3] = s[i] >> 24;
	}
	explicit_bzero(s, sizeof s), explicit_bzero(in, sizeof in);
}

struct poly { uint64_t r[5], h[5]; };

static void poly_limbs(uint64_t l[5], const uint8_t b[17])
{
	l[0] = le32(b) & 0x3ffffff, l[1] = le32(b + 3) >> 2 & 0x3ffffff, l[2] = le32(b + 6) >> 4 & 0x3ffffff;
	l[3] = le32(b + 9) >> 6 & 0x3ffffff, l[4] = le32(b + 12) >> 8 | (uint64_t)b[16] << 24;
}

static void poly_carry(uint64_t h[5])
{
	for (int i = 0; i < 5; i++) {
		uint64_t c = h[i] >> 26;
		h[i] &= 0x3ffffff;
		h[(i + 1) % 5] += i == 4 ? 5 * c : c;
	}
}

/* Adds whole blocks of data, the last one filled up with zeros. */
static void poly_add(struct poly *p, const uint8_t *data, size_t n)
{
	for (; n > 0; data += 16, n -= n < 16 ? n : 16) {
		uint8_t block[17] = { [16] = 1 };
		uint64_t l[5], d[5];
		memcpy(block, data, n < 16 ? n : 16);
		poly_limbs(l, block);
		for (int i = 0; i < 5; i++)
			p->h[i] += l[i];
		for (int i = 0; i < 5; i++) {
			d[i] = 0;
			for (int j = 0; j < 5; j++)
				d[i] += p->h[j] * p->r[(i + 5 - j) % 5] * (j > i ? 5 : 1);
		}
		poly_carry(d), poly_carry(d);
		memcpy(p->h, d, sizeof d);
	}
}

static void poly_tag(struct poly *p, const uint8_t *s, uint8_t tag[TAG])
{
	uint64_t g[5], c = 5;
	poly_carry(p->h), poly_carry(p->h);
	for (int i = 0; i < 5; i++) { /* h - (2^130 - 5), and whether that is negative */
		g[i] = p->h[i] + c;
		c = g[i] >> 26;
		g[i] &= 0x3ffffff;
	}
	for (int i = 0; i < 5; i++)
		p->h[i] = c ? g[i] : p->h[i];
	unsigned __int128 v = 0;
	for (int i = 4; i >= 0; i--)
		v = (v << 26) + p->h[i];
	for (int i = 0, carry = 0; i < 16; i++) {
		carry += (int)(uint8_t)(v >> (8 * i)) + s[i];
		tag[i] = (uint8_t)carry;
		carry >>= 8;
	}
}

/* Encrypts body in place and writes the tag behind it. */
static void aead_seal(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_n, uint8_t *body, size_t n)
{
	uint8_t block[64], rkey[17], lengths[16];
	struct poly p = { { 0 }, { 0 } };
	chacha_block(key, nonce, 0, block);
	memcpy(rkey, block, 16);
	rkey[16] = 0;
	for (int i = 3; i < 16; i += 4)
		rkey[i] &= 15;
	for (int i = 4; i < 16; i += 4)
		rkey[i] &= 252;
	poly_limbs(p.r, rkey);
	uint8_t s[16];
	memcpy(s, block + 16, 16);
	for (size_t i = 0; i < n; i++) {
		if (i % 64 == 0)
			chacha_block(key, nonce, (uint32_t)(1 + i / 64), block);
		body[i] ^= block[i % 64];
	}
	for (int i = 0; i < 8; i++)
		lengths[i] = (uint8_t)((uint64_t)aad_n >> (8 * i)), lengths[8 + i] = (uint8_t)((uint64_t)n >> (8 * i));
	poly_add(&p, aad, aad_n);
	poly_add(&p, body, n);
	poly_add(&p, lengths, 16);
	poly_tag(&p, s, body + n);
	explicit_bzero(block, sizeof block), explicit_bzero(rkey, sizeof rkey), explicit_bzero(&p, sizeof p);
}

/* The agent. */
static int dial(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 5 };
	struct ucred agent;
	struct stat dir;
	socklen_t n = sizeof agent;
	char *parent = strdup(path), *slash = parent ? strrchr(parent, '/') : NULL;
	if (strlen(path) >= sizeof to.sun_path || !slash)
		die(100, "no such path");
	*slash = 0;
	strcpy(to.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) || connect(fd, (void *)&to, sizeof to))
		die(100, "no agent at %s", path);
	if (lstat(parent, &dir) || dir.st_mode & 022 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &agent, &n) ||
	    (agent.uid != 0 && agent.uid != dir.st_uid))
		die(100, "not to be trusted: %s", path);
	free(parent);
	return fd;
}

static void read_all(int fd, uint8_t *p, size_t n)
{
	while (n > 0) {
		ssize_t got = read(fd, p, n);
		if (got <= 0)
			die(100, "the agent went away");
		p += got, n -= (size_t)got;
	}
}

/* Sends the frame whose body ends at end, and reads the answer into frame. */
static size_t ask(int fd, int op, uint8_t *frame, uint8_t *end)
{
	size_t n = (size_t)(end - frame);
	memcpy(frame, "SLXA\x01", 5);
	frame[5] = (uint8_t)op, frame[6] = 0, frame[7] = 0;
	put(frame + 8, 4, n - HEADER);
	if (send(fd, frame, n, MSG_NOSIGNAL) != (ssize_t)n)
		die(100, "the agent went away");
	read_all(fd, frame, HEADER);
	n = get(frame + 8, 4);
	if (memcmp(frame, "SLXA\x01", 5) || frame[6] != 1 || n > MAXFRAME - HEADER)
		die(100, "not the agent's protocol");
	read_all(fd, frame + HEADER, n);
	if (frame[7] != 0 && n >= 6)
		die(frame[7], "status %d, GSS major status 0x%06x: %.*s", frame[7], (unsigned)get(frame + HEADER, 4),
		    (int)get(frame + HEADER + 4, 2), frame + HEADER + 6);
	if (frame[5] != op)
		die(100, "not the agent's protocol");
	return n;
}

static size_t padded(size_t n)
{
	static const size_t sizes[] = { 512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152 };
	size_t i = 0;
	while (sizes[i] <= n)
		i++;
	return sizes[i];
}

static void seal(int fd, const char *format, const uint8_t *plain, size_t n)
{
	static uint8_t frame[MAXFRAME], token[MAXFRAME], key[KEY];
	uint8_t *p = put(frame + HEADER, 8, 0); /* the default lifetime */
	p = put_data(p, 1, "\x02", 1);
	p = put_data(p, 2, "", 0); /* no mechanism */
	p = put_data(p, 2, format, strlen(format));
	p = put_data(p, 2, "", 0); /* for this user */
	if (n > MAXPLAIN)
		die(100, "too much to seal");
	size_t got = ask(fd, RESERVE, frame, p), start = get(frame + HEADER + 2 + KEY, 2), size = padded(n);
	if (get(frame + HEADER, 2) != KEY || got != 2 + KEY + 2 + start)
		die(100, "not the agent's protocol");
	memcpy(key, frame + HEADER + 2, KEY);
	memcpy(token, frame + HEADER + 2 + KEY + 2, start);
	explicit_bzero(frame, sizeof frame);
	uint8_t *nonce = put(token + start, 4, size), *body = nonce + NONCE;
	if (getrandom(nonce, NONCE, 0) != NONCE)
		die(100, "no random numbers");
	memcpy(body, plain, n);
	body[n] = 0x80; /* and zeros, which are there */
	aead_seal(key, nonce, token, start + 4, body, size);
	explicit_bzero(key, sizeof key);
	fwrite(token, 1, start + 4 + NONCE + size + TAG, stdout);
}

static void redeem(int fd, int op, const char *format, const uint8_t *token, size_t n)
{
	static uint8_t frame[MAXFRAME + 256];
	uint8_t *p = put_data(frame + HEADER, 2, format, strlen(format));
	p = put_data(p, 4, token, n);
	size_t got = ask(fd, op, frame, p);
	if (got < 4 || get(frame + HEADER, 4) != got - 4)
		die(100, "not the agent's protocol");
	fwrite(frame + HEADER + 4, 1, got - 4, stdout);
	explicit_bzero(frame, sizeof frame);
}

int main(int argc, char **argv)
{
	static uint8_t in[MAXFRAME], frame[MAXFRAME];
	if (argc < 3 || (strcmp(argv[2], "status") && argc != 4) || strlen(argv[argc - 1]) > 64)
		die(100, "usage: client SOCKET status | seal FORMAT | open FORMAT | takeback FORMAT");
	int fd = dial(argv[1]);
	if (!strcmp(argv[2], "status")) {
		if (ask(fd, STATUS, frame, frame + HEADER) < 9)
			die(100, "not the agent's protocol");
		printf("outstanding %u of %u\n", (unsigned)get(frame + HEADER + 1, 4), (unsigned)get(frame + HEADER + 5, 4));
		return 0;
	}
	size_t n = fread(in, 1, sizeof in - 512, stdin);
	if (!strcmp(argv[2], "seal"))
		seal(fd, argv[3], in, n);
	else
		redeem(fd, strcmp(argv[2], "open") ? TAKEBACK : OPEN, argv[3], in, n);
	explicit_bzero(in, sizeof in);
	return 0;
}
