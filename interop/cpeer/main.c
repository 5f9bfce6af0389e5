/*
 * cpeer: a peer for the interop tests that uses the C library alone, MIT's or
 * Heimdal's (compiled with -DHEIMDAL). It obeys one command a line on its
 * standard input and answers each with one line, "ok ..." or "error ...".
 *
 *   bind TEXT                       channel bindings from here on
 *   connect PORT SERVICE FLAG,...   initiate over 127.0.0.1
 *   listen                          choose a port
 *   accept                          accept there
 *   make KIND N                     protect message N; hex of the frame's body
 *   put KIND HEX                    send a frame
 *   take                            receive one: KIND STATUS N
 *   stream FIRST COUNT WINDOW       see stream.h
 *   serve FIRST COUNT               answer each message with one's own
 *   travel                          export and import the own context
 *   key                             hex of the session key
 *   close                           delete the context, close the connection
 */
#include "stream.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct peer peer = { .fd = -1, .ctx = GSS_C_NO_CONTEXT,
	.bindings = GSS_C_NO_CHANNEL_BINDINGS };
static int listener = -1;

static void
print_hex(const char *before, const struct bytes *b)
{
	printf("%s", before);
	for (size_t i = 0; i < b->len; i++)
		printf("%02x", b->data[i]);
	printf("\n");
}

/* Lower-case hex text in place into bytes; -1 if it is not that. */
static int
from_hex(char *text, struct bytes *b)
{
	static const char digits[] = "0123456789abcdef";
	size_t n = strlen(text);

	if (n % 2 != 0 || strspn(text, digits) != n)
		return -1;
	b->data = (uint8_t *)text;
	b->len = n / 2;
	for (size_t i = 0; i < b->len; i++)
		b->data[i] = (uint8_t)((strchr(digits, text[2 * i]) - digits)
		    << 4 | (strchr(digits, text[2 * i + 1]) - digits));
	return 0;
}

static int
tcp_socket(void)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int
parse_flags(char *words, OM_uint32 *flags)
{
	static const struct {
		const char *word;
		OM_uint32 flag;
	} known[] = {
		{ "mutual", GSS_C_MUTUAL_FLAG },
		{ "replay", GSS_C_REPLAY_FLAG },
		{ "sequence", GSS_C_SEQUENCE_FLAG },
		{ "conf", GSS_C_CONF_FLAG },
		{ "integ", GSS_C_INTEG_FLAG },
	};
	size_t i, n = sizeof known / sizeof *known;

	*flags = 0;
	for (char *w = strtok(words, ","); w != NULL; w = strtok(NULL, ",")) {
		for (i = 0; i < n && strcmp(w, known[i].word) != 0; i++)
			;
		if (i == n)
			return -1;
		*flags |= known[i].flag;
	}
	return 0;
}

static void
do_bind(const char *text)
{
	static char data[128];
	static struct gss_channel_bindings_struct bindings;

	snprintf(data, sizeof data, "%s", text);
	memset(&bindings, 0, sizeof bindings);
	bindings.application_data.length = strlen(data);
	bindings.application_data.value = data;
	peer.bindings = &bindings;
	printf("ok\n");
}

static void
answer_establishment(int rc, OM_uint32 major, OM_uint32 minor)
{
	if (rc == 0)
		printf("ok\n");
	else if (GSS_ERROR(major))
		printf("error %s\n", gss_explain(major, minor));
	else
		printf("error connection lost while establishing\n");
}

static void
do_connect(int port, char *service, char *words)
{
	struct sockaddr_in a = loopback(port);
	OM_uint32 flags, major = 0, minor = 0;
	int rc;

	if (parse_flags(words, &flags) != 0) {
		printf("error unknown flag\n");
		return;
	}
	peer.fd = tcp_socket();
	if (connect(peer.fd, (struct sockaddr *)&a, sizeof a) != 0) {
		printf("error cannot connect\n");
		return;
	}
	rc = gss_initiate(&peer, service, flags, &major, &minor);
	answer_establishment(rc, major, minor);
}

static void
do_listen(void)
{
	struct sockaddr_in a = loopback(0);
	socklen_t len = sizeof a;

	listener = tcp_socket();
	if (bind(listener, (struct sockaddr *)&a, sizeof a) != 0 ||
	    listen(listener, 1) != 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &len) != 0)
		printf("error cannot listen\n");
	else
		printf("ok %d\n", ntohs(a.sin_port));
}

static void
do_accept(void)
{
	OM_uint32 major, minor;
	int rc;

	peer.fd = accept(listener, NULL, NULL);
	close(listener);
	if (peer.fd < 0) {
		printf("error cannot accept\n");
		return;
	}
	rc = gss_accept(&peer, &major, &minor);
	answer_establishment(rc, major, minor);
}

static void
do_make(char kind, uint64_t n)
{
	uint8_t msg[WIRE_MESSAGE_MAX];
	size_t len = wire_message(msg, peer.out, n);
	struct bytes body;
	OM_uint32 major = gss_protect(&peer, kind, msg, len, &body);

	if (major != GSS_S_COMPLETE) {
		printf("error %s\n", gss_words(major));
		return;
	}
	print_hex("ok ", &body);
	free(body.data);
}

static void
do_put(char kind, char *hex)
{
	struct bytes body;

	if (from_hex(hex, &body) != 0 ||
	    wire_write(peer.fd, kind, body.data, body.len) != 0)
		printf("error cannot send\n");
	else
		printf("ok\n");
}

static void
do_take(void)
{
	struct bytes body, msg;
	OM_uint32 major;
	char kind;

	if (wire_read(peer.fd, &kind, &body) != 0) {
		printf("error connection lost\n");
		return;
	}
	major = gss_open(&peer, kind, &body, &msg);
	printf("ok %c %s", kind, gss_words(major));
	if (msg.data != NULL && wire_is_message(msg.data, msg.len, peer.in,
	    wire_number(msg.data, msg.len)))
		printf(" %" PRIu64, wire_number(msg.data, msg.len));
	printf("\n");
	free(msg.data);
	free(body.data);
}

static void
do_stream(uint64_t first, uint64_t count, uint64_t window)
{
	char why[256];

	if (stream(&peer, first, count, window, why, sizeof why) == 0)
		printf("ok\n");
	else
		printf("error %s\n", why);
}

static void
do_serve(uint64_t first, uint64_t count)
{
	for (uint64_t n = first; n < first + count; n++) {
		uint8_t own[WIRE_MESSAGE_MAX];
		size_t len = wire_message(own, peer.out, n);
		struct bytes body, msg, answer;
		OM_uint32 major;
		char kind;
		int right;

		if (wire_read(peer.fd, &kind, &body) != 0) {
			printf("error connection lost at %" PRIu64 "\n", n);
			return;
		}
		major = gss_open(&peer, kind, &body, &msg);
		right = major == GSS_S_COMPLETE && kind == wire_kind(n) &&
		    wire_is_message(msg.data, msg.len, peer.in, n);
		free(msg.data);
		free(body.data);
		if (!right) {
			printf("error message %" PRIu64 ": %s\n", n,
			    gss_words(major));
			return;
		}
		major = gss_protect(&peer, kind, own, len, &answer);
		if (major != GSS_S_COMPLETE || wire_write(peer.fd, kind,
		    answer.data, answer.len) != 0) {
			printf("error answering %" PRIu64 "\n", n);
			return;
		}
		free(answer.data);
	}
	printf("ok\n");
}

static void
do_travel(void)
{
	size_t len = 0;
	OM_uint32 major = gss_travel(&peer, &len);

	if (major != GSS_S_COMPLETE)
		printf("error %s\n", gss_words(major));
	else
		printf("ok %zu\n", len);
}

static void
do_key(void)
{
	struct bytes key;
	OM_uint32 major = gss_session_key(&peer, &key);

	if (major != GSS_S_COMPLETE) {
		printf("error %s\n", gss_words(major));
		return;
	}
	print_hex("ok ", &key);
	free(key.data);
}

static void
do_close(void)
{
	OM_uint32 minor;

	gss_delete_sec_context(&minor, &peer.ctx, GSS_C_NO_BUFFER);
	close(peer.fd);
	peer.fd = -1;
	printf("ok\n");
}

static void
obey(char *line)
{
	static char hex[2 * WIRE_MAX + 1];
	char service[128], words[128], kind;
	uint64_t n, count, window;
	int port;

	if (sscanf(line, "bind %127s", words) == 1)
		do_bind(words);
	else if (sscanf(line, "connect %d %127s %127s", &port, service, words) == 3)
		do_connect(port, service, words);
	else if (strcmp(line, "listen") == 0)
		do_listen();
	else if (strcmp(line, "accept") == 0)
		do_accept();
	else if (sscanf(line, "make %c %" SCNu64, &kind, &n) == 2)
		do_make(kind, n);
	else if (sscanf(line, "put %c %262144s", &kind, hex) == 2)
		do_put(kind, hex);
	else if (strcmp(line, "take") == 0)
		do_take();
	else if (sscanf(line, "stream %" SCNu64 " %" SCNu64 " %" SCNu64, &n,
	    &count, &window) == 3)
		do_stream(n, count, window);
	else if (sscanf(line, "serve %" SCNu64 " %" SCNu64, &n, &count) == 2)
		do_serve(n, count);
	else if (strcmp(line, "travel") == 0)
		do_travel();
	else if (strcmp(line, "key") == 0)
		do_key();
	else if (strcmp(line, "close") == 0)
		do_close();
	else
		printf("error unknown command\n");
}

int
main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((len = getline(&line, &size, stdin)) > 0) {
		line[strcspn(line, "\n")] = '\0';
		obey(line);
		fflush(stdout);
	}
	free(line);
	return 0;
}
