/*
 * The GSS-API functions that this library puts in front of MIT's and Heimdal's
 * (RFC 2744, sections 5.10, 5.14, 5.17 and 5.26): exported contexts are sealed by the
 * agent and open once. Every other function stays the library's own.
 *
 * Each function exists twice, once for each library's symbol version, so that a call
 * goes on to the library that its caller was linked with. A call from inside that
 * library passes through: SPNEGO's export calls the export of the mechanism in it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sealctx.h"

typedef uint32_t OM_uint32;
typedef struct { size_t length; void *value; } gss_buffer_desc, *gss_buffer_t;

#define GSS_S_COMPLETE UINT32_C(0)
#define GSS_S_DEFECTIVE_TOKEN (UINT32_C(9) << 16)
#define GSS_S_NO_CONTEXT (UINT32_C(8) << 16)
#define GSS_S_FAILURE (UINT32_C(13) << 16)
#define GSS_S_UNAUTHORIZED (UINT32_C(15) << 16)
#define GSS_S_CALL_INACCESSIBLE_WRITE (UINT32_C(2) << 24)
#define GSS_ERROR(major) ((major) & UINT32_C(0xffff0000))
#define GSS_C_MECH_CODE 2

/* Minor codes are BASE plus a fault. */
#define BASE UINT32_C(0x534c5800)

#if defined __x86_64__ && !defined __ILP32__
#define ARCH "amd64"
#elif defined __aarch64__ && defined __AARCH64EL__
#define ARCH "arm64"
#elif defined __i386__
#define ARCH "386"
#elif defined __riscv && __riscv_xlen == 64
#define ARCH "riscv64"
#else
#error "name this architecture as Go does"
#endif

typedef OM_uint32 export_function(OM_uint32 *, void **, gss_buffer_t);
typedef OM_uint32 import_function(OM_uint32 *, gss_buffer_t, void **);
typedef OM_uint32 release_function(OM_uint32 *, gss_buffer_t);
typedef OM_uint32 display_function(OM_uint32 *, OM_uint32, int, void *, OM_uint32 *, gss_buffer_t);

/* A library whose functions are interposed. Threads may look its functions up at the
 * same time: they find and store the same, and none waits for another. */
struct library {
	const char *soname, *version;
	const char *formats[2]; /* of its plain tokens: as written, and as secctx wrote it before */
	export_function *_Atomic export;
	import_function *_Atomic import;
	release_function *_Atomic release;
	display_function *_Atomic display;
	atomic_uintptr_t from, to; /* where its code lies; to is 0 until all is known */
};

#define GO_PROVIDER "github.com/golang-auth/go-gssapi-c/" ARCH "/"
static struct library mit = {
	.soname = "libgssapi_krb5.so.2", .version = "gssapi_krb5_2_MIT",
	.formats = { "libgssapi_krb5.so.2/" ARCH, GO_PROVIDER "libgssapi_krb5.so.2" },
};
static struct library heimdal = {
	.soname = "libgssapi.so.3", .version = "HEIMDAL_GSS_2.0",
	.formats = { "libgssapi.so.3/" ARCH, GO_PROVIDER "libgssapi.so.3" },
};

/* Sets from and to of the library that holds its export function. */
static int find_range(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct library *l = arg;
	uintptr_t from = UINTPTR_MAX, to = 0, function = (uintptr_t)atomic_load(&l->export);
	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + p->p_vaddr;
		if (p->p_type != PT_LOAD)
			continue;
		from = start < from ? start : from;
		to = start + p->p_memsz > to ? start + p->p_memsz : to;
	}
	if (function < from || function >= to)
		return 0;
	atomic_store(&l->from, from);
	atomic_store(&l->to, to);
	return 1;
}

static bool known(struct library *l)
{
	if (atomic_load(&l->to))
		return true;
	/* The library may be in no scope that RTLD_NEXT searches: below a module of Python, say. */
	void *handle = dlopen(l->soname, RTLD_LAZY | RTLD_NOLOAD);
	if (!handle)
		return false;
	atomic_store(&l->import, (import_function *)dlvsym(handle, "gss_import_sec_context", l->version));
	atomic_store(&l->release, (release_function *)dlvsym(handle, "gss_release_buffer", l->version));
	atomic_store(&l->display, (display_function *)dlvsym(handle, "gss_display_status", l->version));
	atomic_store(&l->export, (export_function *)dlvsym(handle, "gss_export_sec_context", l->version));
	if (l->import && l->release && l->display && l->export)
		dl_iterate_phdr(find_range, l);
	return atomic_load(&l->to) != 0;
}

/* Returns l, or the other library for a caller that was linked without symbol
 * versions, or NULL where neither is loaded. */
static struct library *loaded(struct library *l)
{
	struct library *other = l == &mit ? &heimdal : &mit;
	return known(l) ? l : known(other) ? other : NULL;
}

/* Reports whether a call comes from the library or from a plugin that interposes
 * mechanisms in it, as gssproxy's: then it is part of a call that was sealed already. */
static bool inside(struct library *l, const void *caller)
{
	Dl_info info;
	struct link_map *map;
	if ((uintptr_t)caller >= atomic_load(&l->from) && (uintptr_t)caller < atomic_load(&l->to))
		return true;
	if (!dladdr1(caller, &info, (void **)&map, RTLD_DL_LINKMAP) || !*map->l_name)
		return false; /* the program itself */
	void *handle = dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD);
	if (!handle)
		return false;
	/* dlsym also looks at what the object depends on, so the place is compared. */
	void *mark = dlsym(handle, "gss_mech_interposer");
	Dl_info where;
	bool plugin = mark && dladdr(mark, &where) && where.dli_fbase == info.dli_fbase;
	dlclose(handle);
	return plugin;
}

/* The next function of a name behind this library, for a GSS-API library of no known
 * version. Its contexts are not sealed; what it allocated is its own to free. */
static void *next_function(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static const struct { OM_uint32 major; const char *text; } faults[LAST_FAULT + 1] = {
	[DEFECTIVE] = { GSS_S_DEFECTIVE_TOKEN, "the token is no sealed token of this host's agent, or its key has ended" },
	[EXPIRED] = { GSS_S_NO_CONTEXT, "the token has expired" },
	[UNAUTHORIZED] = { GSS_S_UNAUTHORIZED, "the token is for another audience" },
	[OTHER_FORMAT] = { GSS_S_DEFECTIVE_TOKEN, "the token was exported by another GSS-API library" },
	[SPENT] = { GSS_S_NO_CONTEXT, "the token was imported before" },
	[6] = { GSS_S_FAILURE, "the agent lacks something" },
	[7] = { GSS_S_FAILURE, "the agent refuses the request" },
	[8] = { GSS_S_FAILURE, "the agent cannot hold a token to the audience in the configuration" },
	[10] = { GSS_S_FAILURE, "a quota of this user is used up at the agent" },
	[11] = { GSS_S_FAILURE, "the agent speaks another version of its protocol" },
	[13] = { GSS_S_FAILURE, "the agent does not know the key" },
	[14] = { GSS_S_FAILURE, "the agent is stopping" },
	[REFUSED] = { GSS_S_UNAUTHORIZED, "the agent's policy does not allow it" },
	[NOT_YOU] = { GSS_S_UNAUTHORIZED, "the agent cannot tell which user asks" },
	[STATUS_LOST] = { GSS_S_NO_CONTEXT, "the token was claimed too late, and the context is lost" },
	[AWAY] = { GSS_S_FAILURE, "no agent answers; see that sealctx agent runs and that its socket is reachable from here" },
	[UNCERTAIN] = { GSS_S_FAILURE, "the agent went away before it answered, and the token may be spent" },
	[IMPOSTOR] = { GSS_S_FAILURE, "the agent's socket is not to be trusted: another user can replace it, or listens there" },
	[PROTOCOL] = { GSS_S_FAILURE, "the agent speaks another version of its protocol" },
	[CONFIG] = { GSS_S_FAILURE, "the configuration cannot be used" },
	[NOT_SEALED] = { GSS_S_DEFECTIVE_TOKEN, "the token is not sealed; accept-plain in gss.conf allows that for a migration" },
	[LOST] = { GSS_S_NO_CONTEXT, "the context is lost: the library could not import what it had exported" },
	[TOO_LARGE] = { GSS_S_FAILURE, "the library's token is too large to be sealed" },
	[NO_LIBRARY] = { GSS_S_FAILURE, "no GSS-API library of a known version is loaded" },
	[NO_MEMORY] = { GSS_S_FAILURE, "out of memory" },
};

/* What this thread's last failure was, for gss_display_status. */
static __thread struct { enum fault fault; char detail[MAX_TEXT]; } last;

static OM_uint32 fail(OM_uint32 *minor, enum fault f, const char *detail)
{
	last.fault = f;
	snprintf(last.detail, sizeof last.detail, "%s", detail);
	if (minor)
		*minor = BASE + f;
	return faults[f].text ? faults[f].major : GSS_S_FAILURE;
}

/* Clears what a call has left below its caller on the stack. */
static __attribute__((noinline)) void scrub(void)
{
	char below[16384]; /* threads may have little more */
	explicit_bzero(below, sizeof below);
}

static void wipe(gss_buffer_t b)
{
	if (b && b->value)
		explicit_bzero(b->value, b->length);
}

/* Seals what was exported, into token. On a fault there is no token. */
static enum fault sealed(struct agent *a, const uint8_t *start, size_t start_size, gss_buffer_t plain, gss_buffer_t token)
{
	const uint8_t *at;
	size_t size;
	if (plain->length > MAX_PLAIN)
		return TOO_LARGE;
	enum fault f = seal(a, start, start_size, plain->value, plain->length, &at, &size);
	if (f != OK)
		return f;
	void *copy = malloc(size); /* gss_release_buffer frees it */
	if (!copy)
		return NO_MEMORY;
	token->value = memcpy(copy, at, size), token->length = size;
	return OK;
}

/* Appends what the mechanism says of its failure. */
static void mechanism_text(struct library *l, OM_uint32 minor, char *out)
{
	OM_uint32 ignored, more = 0;
	gss_buffer_desc s = { 0, NULL };
	if (l->display(&ignored, minor, GSS_C_MECH_CODE, NULL, &more, &s) == GSS_S_COMPLETE && s.value)
		snprintf(out, MAX_TEXT, "%.*s", (int)(s.length < MAX_TEXT ? s.length : MAX_TEXT), (char *)s.value);
	if (s.value)
		l->release(&ignored, &s);
}

static OM_uint32 export_context(struct library *l, OM_uint32 *minor, void **context, gss_buffer_t token)
{
	struct agent a;
	uint8_t start[MAX_START];
	size_t start_size;
	gss_buffer_desc plain = { 0, NULL };
	OM_uint32 major = GSS_S_COMPLETE, ignored;
	token->length = 0, token->value = NULL;
	if (config.bad)
		return fail(minor, CONFIG, config.problem);
	enum fault f = dial(&a);
	if (f == OK)
		f = reserve(&a, l->formats[0], start, &start_size);
	if (f == OK)
		major = l->export(minor, context, &plain);
	if (f == OK && !GSS_ERROR(major)) {
		f = sealed(&a, start, start_size, &plain, token);
		if (f != OK && GSS_ERROR(l->import(minor, &plain, context))) {
			mechanism_text(l, *minor, a.text);
			f = LOST;
		}
		wipe(&plain);
	}
	if (plain.value)
		l->release(&ignored, &plain);
	if (f != OK)
		major = fail(minor, f, a.text);
	hang_up(&a); /* a reservation that was not sealed ends with the connection */
	scrub();
	return major;
}

/* Writes a line to the system's log. syslog(3) would keep a descriptor, which a daemon
 * may close and give another meaning. */
static void log_plain(void)
{
	char line[128];
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int n = snprintf(line, sizeof line, "<84>sealctx[%d]: imported a plain interprocess token, as accept-plain allows", getpid());
	if (fd >= 0) {
		sendto(fd, line, (size_t)n, MSG_NOSIGNAL, (void *)&to, sizeof to);
		close(fd);
	}
}

static OM_uint32 import_context(struct library *l, OM_uint32 *minor, gss_buffer_t token, void **context)
{
	struct agent a;
	const uint8_t *at = NULL;
	gss_buffer_desc plain;
	OM_uint32 major = GSS_S_COMPLETE;
	*context = NULL;
	if (config.bad)
		return fail(minor, CONFIG, config.problem);
	if (token->length < 4 || memcmp(token->value, "SLCX", 4)) {
		if (!config.accept_plain)
			return fail(minor, NOT_SEALED, "");
		log_plain();
		return l->import(minor, token, context);
	}
	enum fault f = dial(&a);
	if (f == OK)
		f = open_token(&a, l->formats, token->value, token->length, &at, &plain.length);
	if (f == OK) {
		plain.value = (void *)(uintptr_t)at;
		if (GSS_ERROR(l->import(minor, &plain, context))) {
			mechanism_text(l, *minor, a.text);
			f = LOST;
		}
	}
	if (f != OK)
		major = fail(minor, f, a.text);
	hang_up(&a);
	scrub();
	return major;
}

static OM_uint32 display(OM_uint32 *minor, OM_uint32 value, OM_uint32 *more, gss_buffer_t text)
{
	enum fault f = value - BASE;
	const char *what = faults[f].text ? faults[f].text : "the agent refused";
	const char *detail = last.fault == f ? last.detail : "";
	char *s;
	int n = asprintf(&s, "sealctx: %s%s%s", what, *detail ? ": " : "", detail);
	*minor = 0, *more = 0;
	text->length = n < 0 ? 0 : (size_t)n, text->value = n < 0 ? NULL : s;
	return n < 0 ? GSS_S_FAILURE : GSS_S_COMPLETE;
}

/* No thread is cancelled between the claim of a token and its import. */
#define UNCANCELLED(call) ({ \
	int before, saved = errno; \
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before); \
	OM_uint32 result = (call); \
	pthread_setcancelstate(before, &before); \
	errno = saved; \
	result; \
})

#define CALLER __builtin_return_address(0)

static OM_uint32 do_export(struct library *l, const void *caller, OM_uint32 *minor, void **context, gss_buffer_t token)
{
	l = loaded(l);
	if (!l)
		return fail(minor, NO_LIBRARY, "");
	if (!minor || !token)
		return GSS_S_CALL_INACCESSIBLE_WRITE | GSS_S_FAILURE;
	if ((config.off && !config.bad) || !context || !*context || inside(l, caller))
		return l->export(minor, context, token);
	return UNCANCELLED(export_context(l, minor, context, token));
}

static OM_uint32 do_import(struct library *l, const void *caller, OM_uint32 *minor, gss_buffer_t token, void **context)
{
	l = loaded(l);
	if (!l)
		return fail(minor, NO_LIBRARY, "");
	if (!minor || !context)
		return GSS_S_CALL_INACCESSIBLE_WRITE | GSS_S_FAILURE;
	if ((config.off && !config.bad) || !token || !token->value || !token->length || inside(l, caller))
		return l->import(minor, token, context);
	return UNCANCELLED(import_context(l, minor, token, context));
}

static OM_uint32 do_release(struct library *l, OM_uint32 *minor, gss_buffer_t b)
{
	l = loaded(l);
	release_function *release = l ? l->release : (release_function *)next_function("gss_release_buffer");
	if (!release)
		return fail(minor, NO_LIBRARY, "");
	wipe(b);
	return release(minor, b);
}

static OM_uint32 do_display(struct library *l, OM_uint32 *minor, OM_uint32 value, int type, void *mech, OM_uint32 *more, gss_buffer_t text)
{
	if (type == GSS_C_MECH_CODE && value > BASE && value <= BASE + LAST_FAULT && minor && more && text)
		return display(minor, value, more, text);
	l = loaded(l);
	display_function *next = l ? l->display : (display_function *)next_function("gss_display_status");
	if (!next)
		return fail(minor, NO_LIBRARY, "");
	return next(minor, value, type, mech, more, text);
}

/* The functions, once for each version. An unversioned caller gets MIT's. */
#define EXPORTED(name, at) __attribute__((visibility("default"), symver(name at)))
#define FUNCTIONS(l, at) \
	EXPORTED("gss_export_sec_context", at) OM_uint32 l##_export(OM_uint32 *minor, void **context, gss_buffer_t token) \
	{ return do_export(&l, CALLER, minor, context, token); } \
	EXPORTED("gss_import_sec_context", at) OM_uint32 l##_import(OM_uint32 *minor, gss_buffer_t token, void **context) \
	{ return do_import(&l, CALLER, minor, token, context); } \
	EXPORTED("gss_release_buffer", at) OM_uint32 l##_release(OM_uint32 *minor, gss_buffer_t b) \
	{ return do_release(&l, minor, b); } \
	EXPORTED("gss_display_status", at) OM_uint32 l##_display(OM_uint32 *minor, OM_uint32 value, int type, void *mech, OM_uint32 *more, gss_buffer_t text) \
	{ return do_display(&l, minor, value, type, mech, more, text); }

FUNCTIONS(mit, "@@gssapi_krb5_2_MIT")
FUNCTIONS(heimdal, "@HEIMDAL_GSS_2.0")

/* Tells other parts of sealctx that this process seals below them already. */
__attribute__((visibility("default"))) const char sealctx_gss[] = "libsealctx-gss";
