/*
 * cexport: a C program that exports and imports contexts, as programs do that know
 * nothing of sealctx. Each scenario prints what it saw, a line at a time; a line that
 * begins with "FAIL" ends it. The environment names a realm with e18@localhost and a
 * logged-in user.
 *
 *	cexport roundtrip N     export and import N times, with messages in between
 *	cexport twice           import one token twice
 *	cexport refused         an export that fails: its text, and whether the context works
 *	cexport burst N         N exports that fail
 *	cexport import          import the token on standard input, print how it went
 *	cexport export          print a token on standard output
 *	cexport through MODULE  print a token that a module exported
 *	cexport threads T N     T threads, N round trips each, with forks in between
 *	cexport forks T N       T children, N round trips each
 *	cexport vfork           an export while a vfork'ed child runs
 *	cexport descriptors     with 0 to 2 closed; what is open in an executed program
 *	cexport longjmp         a signal handler that jumps away between two calls
 *	cexport cancel N        threads that are cancelled
 *	cexport seteuid UID     export and import as another effective user
 *	cexport chroot DIR      after chroot to DIR: refused
 *	cexport noseccomp       with socket() refused by seccomp: refused
 *	cexport capture ROLE N  a token and messages around it, as vectors: ROLE is initiator or
 *	                        acceptor, N an encryption type
 *	cexport leave           export, release, and wait to be looked at
 */
#define _GNU_SOURCE
#ifdef HEIMDAL
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_krb5.h>
#else
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#endif

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static gss_OID_desc krb5 = { 9, (void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" };

static const char *service = "e18@localhost";

struct pair { gss_ctx_id_t initiator, acceptor; };

static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	printf("FAIL ");
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

/* The text of a minor code, as a program shows it. */
static void text(OM_uint32 minor, char *out, size_t size)
{
	OM_uint32 ignored, more = 0;
	gss_buffer_desc s = GSS_C_EMPTY_BUFFER;
	out[0] = 0;
	if (gss_display_status(&ignored, minor, GSS_C_MECH_CODE, &krb5, &more, &s) == GSS_S_COMPLETE)
		snprintf(out, size, "%.*s", (int)s.length, (char *)s.value);
	gss_release_buffer(&ignored, &s);
}

/* minor is a pointer: the call that sets it is an argument beside it. */
static void check(OM_uint32 major, const OM_uint32 *minor, const char *what)
{
	char why[512];
	if (!GSS_ERROR(major))
		return;
	text(*minor, why, sizeof why);
	fail("%s: %08x %s", what, (unsigned)major, why);
}

static OM_uint32 initiate(gss_ctx_id_t *ctx, gss_buffer_t in, gss_buffer_t out)
{
	gss_buffer_desc name = { strlen(service), (void *)service };
	gss_name_t target;
	OM_uint32 major, minor, ignored;
	check(gss_import_name(&minor, &name, GSS_C_NT_HOSTBASED_SERVICE, &target), &minor, "name");
	major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, ctx, target, &krb5,
	    GSS_C_MUTUAL_FLAG | GSS_C_REPLAY_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG,
	    0, GSS_C_NO_CHANNEL_BINDINGS, in, NULL, out, NULL, NULL);
	check(major, &minor, "init");
	gss_release_name(&ignored, &target);
	return major;
}

static void accept_token(gss_ctx_id_t *ctx, gss_buffer_t in, gss_buffer_t out)
{
	OM_uint32 major, minor;
	major = gss_accept_sec_context(&minor, ctx, GSS_C_NO_CREDENTIAL, in, GSS_C_NO_CHANNEL_BINDINGS, NULL, NULL, out, NULL, NULL, NULL);
	check(major, &minor, "accept");
}

static struct pair establish(void)
{
	struct pair p = { GSS_C_NO_CONTEXT, GSS_C_NO_CONTEXT };
	gss_buffer_desc there = GSS_C_EMPTY_BUFFER, back = GSS_C_EMPTY_BUFFER, none = GSS_C_EMPTY_BUFFER;
	OM_uint32 ignored;
	initiate(&p.initiator, GSS_C_NO_BUFFER, &there);
	accept_token(&p.acceptor, &there, &back);
	initiate(&p.initiator, &back, &none);
	gss_release_buffer(&ignored, &there);
	gss_release_buffer(&ignored, &back);
	gss_release_buffer(&ignored, &none);
	return p;
}

static void delete_pair(struct pair *p)
{
	OM_uint32 ignored;
	gss_delete_sec_context(&ignored, &p->initiator, GSS_C_NO_BUFFER);
	gss_delete_sec_context(&ignored, &p->acceptor, GSS_C_NO_BUFFER);
}

/* One message from the initiator to the acceptor, in sequence. */
static void message(struct pair *p)
{
	gss_buffer_desc plain = { 5, (void *)"hello" }, sealed = GSS_C_EMPTY_BUFFER, opened = GSS_C_EMPTY_BUFFER;
	OM_uint32 major, minor;
	check(gss_wrap(&minor, p->initiator, 1, GSS_C_QOP_DEFAULT, &plain, NULL, &sealed), &minor, "wrap");
	major = gss_unwrap(&minor, p->acceptor, &sealed, &opened, NULL, NULL);
	check(major, &minor, "unwrap");
	if (major != GSS_S_COMPLETE || opened.length != 5 || memcmp(opened.value, "hello", 5))
		fail("unwrap: %08x", (unsigned)major);
	gss_release_buffer(&minor, &sealed);
	gss_release_buffer(&minor, &opened);
}

static void round_trip(struct pair *p)
{
	gss_buffer_desc token = GSS_C_EMPTY_BUFFER;
	OM_uint32 minor;
	message(p);
	check(gss_export_sec_context(&minor, &p->acceptor, &token), &minor, "export");
	if (p->acceptor != GSS_C_NO_CONTEXT)
		fail("the handle is still a context");
	check(gss_import_sec_context(&minor, &token, &p->acceptor), &minor, "import");
	gss_release_buffer(&minor, &token);
	message(p);
}

/* Exports, which must fail and leave the context as it was. Returns the text. */
static const char *refused(struct pair *p)
{
	static __thread char why[512];
	gss_buffer_desc token = { 99, (void *)"not a token" };
	OM_uint32 minor = 0, major = gss_export_sec_context(&minor, &p->acceptor, &token);
	if (!GSS_ERROR(major))
		fail("the export succeeded");
	if (token.length != 0 || token.value != NULL)
		fail("an export that failed returned a token");
	if (p->acceptor == GSS_C_NO_CONTEXT)
		fail("an export that failed took the context");
	text(minor, why, sizeof why);
	message(p);
	return why;
}

static void scenario_roundtrip(int n)
{
	struct pair p = establish();
	while (n-- > 0)
		round_trip(&p);
	delete_pair(&p);
	printf("ok\n");
}

static void import_and_tell(gss_buffer_t token)
{
	gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
	OM_uint32 minor = 0, major = gss_import_sec_context(&minor, token, &ctx);
	char why[512] = "";
	if (GSS_ERROR(major)) {
		text(minor, why, sizeof why);
		if (ctx != GSS_C_NO_CONTEXT)
			fail("an import that failed returned a context");
	}
	printf("%08x %s\n", (unsigned)major, why);
	gss_delete_sec_context(&minor, &ctx, GSS_C_NO_BUFFER);
}

static void export_to(struct pair *p, gss_buffer_t token)
{
	OM_uint32 minor;
	check(gss_export_sec_context(&minor, &p->acceptor, token), &minor, "export");
}

static void scenario_twice(void)
{
	struct pair p = establish();
	gss_buffer_desc token = GSS_C_EMPTY_BUFFER;
	OM_uint32 ignored;
	export_to(&p, &token);
	import_and_tell(&token);
	import_and_tell(&token);
	gss_release_buffer(&ignored, &token);
	delete_pair(&p);
}

static void *thread(void *arg)
{
	int n = *(int *)arg;
	struct pair p = establish();
	for (int i = 0; i < n; i++) {
		round_trip(&p);
		pid_t child = i % 4 == 0 ? fork() : -1;
		if (child == 0) /* MIT's library does not work in the child of a process with threads */
			_exit(0);
		if (child > 0)
			waitpid(child, NULL, 0);
	}
	delete_pair(&p);
	return NULL;
}

/* n children at a time export copies of one context, m times each. */
static void scenario_forks(int n, int m)
{
	struct pair p = establish();
	round_trip(&p);
	for (int i = 0; i < n; i++) {
		pid_t child = fork();
		if (child < 0)
			fail("fork");
		for (; child == 0 && m > 0; m--)
			round_trip(&p);
		if (child == 0)
			_exit(0);
	}
	for (int status; n > 0; n--)
		if (wait(&status) < 0 || status != 0)
			fail("a child: %d", status);
	round_trip(&p);
	printf("ok\n");
}

static void scenario_threads(int threads, int n)
{
	pthread_t all[256];
	for (int i = 0; i < threads && i < 256; i++)
		if (pthread_create(&all[i], NULL, thread, &n))
			fail("pthread_create");
	for (int i = 0; i < threads && i < 256; i++)
		pthread_join(all[i], NULL);
	printf("ok\n");
}

static void scenario_vfork(void)
{
	struct pair p = establish();
	round_trip(&p);
	pid_t child = vfork();
	if (child == 0)
		execl("/bin/true", "true", (char *)NULL), _exit(1);
	round_trip(&p);
	int status;
	waitpid(child, &status, 0);
	child = vfork();
	if (child == 0) { /* in its parent's memory, as another process */
		round_trip(&p);
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf("ok %d\n", status);
}

static void scenario_descriptors(void)
{
	struct pair p = establish();
	int out = fcntl(1, F_DUPFD_CLOEXEC, 10);
	round_trip(&p); /* what the mechanism keeps open is open now */
	close(0), close(1), close(2);
	for (int i = 0; i < 10; i++)
		round_trip(&p);
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			_exit(2);
	dup2(out, 1);
	printf("ok\n");
	fflush(stdout);
	execl("/bin/sh", "sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done | grep -c socket: || true", (char *)NULL);
}

static sigjmp_buf away;
static void jump(int sig) { (void)sig; siglongjmp(away, 1); }

static void scenario_longjmp(void)
{
	struct pair p = establish();
	signal(SIGALRM, jump);
	for (int i = 0; i < 50; i++) {
		if (sigsetjmp(away, 1) == 0)
			raise(SIGALRM);
		round_trip(&p);
	}
	printf("ok\n");
}

static void *cancelled(void *arg)
{
	struct pair *p = arg;
	for (;;) {
		gss_buffer_desc token = GSS_C_EMPTY_BUFFER;
		OM_uint32 minor;
		gss_ctx_id_t back = GSS_C_NO_CONTEXT;
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		message(p);
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		OM_uint32 major = gss_export_sec_context(&minor, &p->acceptor, &token);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		check(major, &minor, "export");
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		major = gss_import_sec_context(&minor, &token, &back);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		check(major, &minor, "import");
		p->acceptor = back;
		gss_release_buffer(&minor, &token);
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		pthread_testcancel();
	}
	return NULL;
}

static void scenario_cancel(int n)
{
	struct pair p = establish();
	for (int i = 0; i < n; i++) {
		pthread_t t;
		pthread_create(&t, NULL, cancelled, &p);
		usleep((useconds_t)(i % 7) * 500);
		pthread_cancel(t);
		pthread_join(t, NULL);
		message(&p); /* no thread took the context with it */
	}
	printf("ok\n");
}

static void refuse_sockets(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof code / sizeof *code, code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		fail("seccomp: %s", strerror(errno));
}

static void send_buffer(int fd, gss_buffer_t b)
{
	uint32_t n = (uint32_t)b->length;
	if (write(fd, &n, 4) != 4 || write(fd, b->value, n) != (ssize_t)n)
		fail("write");
}

static void receive_buffer(int fd, gss_buffer_t b)
{
	uint32_t n;
	if (read(fd, &n, 4) != 4)
		fail("read");
	b->value = malloc(n), b->length = n;
	for (size_t got = 0; got < n;) {
		ssize_t k = read(fd, (char *)b->value + got, n - got);
		if (k <= 0)
			fail("read");
		got += (size_t)k;
	}
}

/* The initiator lives in a child, so that only the acceptor's keys are in this process. */
static void scenario_leave(void)
{
	int s[2];
	gss_buffer_desc token = GSS_C_EMPTY_BUFFER, answer = GSS_C_EMPTY_BUFFER;
	gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
	OM_uint32 minor;
	char line[16];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	if (fork() == 0) {
		initiate(&ctx, GSS_C_NO_BUFFER, &token);
		send_buffer(s[0], &token);
		receive_buffer(s[0], &answer);
		initiate(&ctx, &answer, &token);
#ifdef HEIMDAL
		gss_krb5_lucid_context_v1_t *lucid;
		check(gss_krb5_export_lucid_sec_context(&minor, &ctx, 1, (void **)&lucid), &minor, "lucid");
		uint8_t *k = lucid->cfx_kd.have_acceptor_subkey ? lucid->cfx_kd.acceptor_subkey.data : lucid->cfx_kd.ctx_key.data;
		size_t n = 32;
#else
		gss_buffer_set_t set;
		gss_OID_desc oid = { 11, (void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05\x05" }; /* GSS_C_INQ_SSPI_SESSION_KEY */
		check(gss_inquire_sec_context_by_oid(&minor, ctx, &oid, &set), &minor, "key");
		uint8_t *k = set->elements[0].value;
		size_t n = set->elements[0].length;
#endif
		for (size_t i = 0; i < n; i++)
			printf("%02x", k[i]);
		printf("\n");
		fflush(stdout);
		write(s[0], "k", 1);
		pause();
	}
	receive_buffer(s[1], &token);
	accept_token(&ctx, &token, &answer);
	send_buffer(s[1], &answer);
	free(token.value);
	gss_release_buffer(&minor, &answer);
	if (read(s[1], line, 1) != 1)
		fail("the initiator ended");
	printf("live\n");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		fail("no input");
	token.length = 0, token.value = NULL;
	check(gss_export_sec_context(&minor, &ctx, &token), &minor, "export");
	gss_release_buffer(&minor, &token);
	printf("exported\n");
	fflush(stdout);
	if (fgets(line, sizeof line, stdin))
		fail("unexpected input");
}

static void print_hex(const char *key, gss_buffer_t b)
{
	printf("%s: ", key);
	for (size_t i = 0; i < b->length; i++)
		printf("%02x", ((unsigned char *)b->value)[i]);
	printf("\n");
}

/* A context exported in the middle of a stream. Of the messages 0 to 3 of its peer, 0, 1
 * and 3 came before the export; 1, 2, 4 and 5 are for the importer: a duplicate, a late
 * one, and two in sequence. */
static void scenario_capture(int initiator, int enctype)
{
	char host[32];
	snprintf(host, sizeof host, "e%d@localhost", enctype);
	service = host;
	struct pair p = establish();
	gss_ctx_id_t *mine = initiator ? &p.initiator : &p.acceptor, peer = initiator ? p.acceptor : p.initiator;
	gss_buffer_desc message[6], opened, token, text;
	OM_uint32 major, minor;
	for (int i = 0; i < 6; i++) {
		char words[16];
		text.length = (size_t)snprintf(words, sizeof words, "message %d", i), text.value = words;
		if (i == 5)
			major = gss_get_mic(&minor, peer, GSS_C_QOP_DEFAULT, &text, &message[i]);
		else
			major = gss_wrap(&minor, peer, i != 4, GSS_C_QOP_DEFAULT, &text, NULL, &message[i]);
		check(major, &minor, "message");
		if (i != 0 && i != 1 && i != 3)
			continue;
		major = gss_unwrap(&minor, *mine, &message[i], &opened, NULL, NULL);
		check(major, &minor, "unwrap");
	}
	text.length = 4, text.value = "mine";
	for (int i = 0; i < 7; i++) /* so that the numbers of the two directions differ */
		check(gss_wrap(&minor, *mine, 1, GSS_C_QOP_DEFAULT, &text, NULL, &opened), &minor, "wrap");
	check(gss_export_sec_context(&minor, mine, &token), &minor, "export");
	printf("role: %s\nenctype: %d\n", initiator ? "initiator" : "acceptor", enctype);
	print_hex("token", &token);
	print_hex("duplicate", &message[1]);
	print_hex("late", &message[2]);
	print_hex("signed", &message[4]);
	print_hex("mic", &message[5]);
}

static void read_token(gss_buffer_t token)
{
	static char room[1 << 20];
	token->value = room, token->length = fread(room, 1, sizeof room, stdin);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 0, m = argc > 3 ? atoi(argv[3]) : 0;
	gss_buffer_desc token = GSS_C_EMPTY_BUFFER;
	struct pair p;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "roundtrip"))
		scenario_roundtrip(n);
	else if (!strcmp(what, "twice"))
		scenario_twice();
	else if (!strcmp(what, "refused"))
		p = establish(), printf("%s\n", refused(&p));
	else if (!strcmp(what, "burst")) {
		p = establish();
		while (n-- > 0)
			refused(&p);
		printf("ok\n");
	} else if (!strcmp(what, "import"))
		read_token(&token), import_and_tell(&token);
	else if (!strcmp(what, "export"))
		p = establish(), export_to(&p, &token), fwrite(token.value, 1, token.length, stdout);
	else if (!strcmp(what, "through")) {
		void *module = dlopen(argv[2], RTLD_NOW);
		OM_uint32 (*through)(OM_uint32 *, gss_ctx_id_t *, gss_buffer_t) = module ? dlsym(module, "through") : NULL;
		OM_uint32 minor;
		if (!through)
			fail("%s", dlerror());
		p = establish();
		check(through(&minor, &p.acceptor, &token), &minor, "export");
		fwrite(token.value, 1, token.length, stdout);
	} else if (!strcmp(what, "capture"))
		scenario_capture(!strcmp(argv[2], "initiator"), m);
	else if (!strcmp(what, "threads"))
		scenario_threads(n, m);
	else if (!strcmp(what, "forks"))
		scenario_forks(n, m);
	else if (!strcmp(what, "vfork"))
		scenario_vfork();
	else if (!strcmp(what, "descriptors"))
		scenario_descriptors();
	else if (!strcmp(what, "longjmp"))
		scenario_longjmp();
	else if (!strcmp(what, "cancel"))
		scenario_cancel(n);
	else if (!strcmp(what, "seteuid")) {
		p = establish();
		if (seteuid((uid_t)n))
			fail("seteuid");
		round_trip(&p);
		printf("ok\n");
	} else if (!strcmp(what, "chroot")) {
		p = establish();
		round_trip(&p);
		if (chroot(argv[2]) || chdir("/"))
			fail("chroot");
		printf("%s\n", refused(&p));
	} else if (!strcmp(what, "noseccomp")) {
		p = establish();
		refuse_sockets();
		printf("%s\n", refused(&p));
	} else if (!strcmp(what, "leave"))
		scenario_leave();
	else
		fail("no such scenario");
	return 0;
}
