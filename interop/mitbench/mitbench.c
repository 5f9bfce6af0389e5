/*
 * mitbench: what the C library alone takes, for comparison.
 *
 *   mitbench export N        gss_export_sec_context and gss_import_sec_context
 *   mitbench wrap SIZE N     gss_wrap and gss_unwrap of SIZE bytes, sealed
 *   mitbench size            bytes of the exported token, no time
 *
 * One process, one thread, both ends of one context; it prints the nanoseconds
 * of one round as a number and nothing else. The environment has to name a realm
 * with the service e18@localhost and a logged-in user: run it under withkdc.
 */
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static gss_OID_desc mech_krb5 = { 9,
	(void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" };
static gss_ctx_id_t initiator = GSS_C_NO_CONTEXT, acceptor = GSS_C_NO_CONTEXT;

static void
check(OM_uint32 major, const char *what)
{
	if (major == GSS_S_COMPLETE)
		return;
	fprintf(stderr, "mitbench: %s: status %08x\n", what, (unsigned)major);
	exit(1);
}

/* Establish initiator and acceptor, mutually, with the full window. */
static void
establish(void)
{
	gss_buffer_desc name = { 13, (void *)"e18@localhost" };
	gss_buffer_desc there = GSS_C_EMPTY_BUFFER, back = GSS_C_EMPTY_BUFFER;
	gss_name_t target;
	OM_uint32 major, minor, flags = GSS_C_MUTUAL_FLAG | GSS_C_REPLAY_FLAG |
	    GSS_C_SEQUENCE_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG;

	check(gss_import_name(&minor, &name, GSS_C_NT_HOSTBASED_SERVICE,
	    &target), "name");
	major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &initiator,
	    target, &mech_krb5, flags, 0, GSS_C_NO_CHANNEL_BINDINGS,
	    GSS_C_NO_BUFFER, NULL, &there, NULL, NULL);
	if (major != GSS_S_CONTINUE_NEEDED)
		check(major ? major : GSS_S_FAILURE, "init");
	check(gss_accept_sec_context(&minor, &acceptor, GSS_C_NO_CREDENTIAL,
	    &there, GSS_C_NO_CHANNEL_BINDINGS, NULL, NULL, &back, NULL, NULL,
	    NULL), "accept");
	gss_release_buffer(&minor, &there);
	check(gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &initiator,
	    target, &mech_krb5, flags, 0, GSS_C_NO_CHANNEL_BINDINGS, &back,
	    NULL, &there, NULL, NULL), "init again");
	gss_release_buffer(&minor, &back);
	gss_release_buffer(&minor, &there);
	gss_release_name(&minor, &target);
}

static size_t
export_round(void)
{
	gss_buffer_desc token;
	OM_uint32 minor;
	size_t len;

	check(gss_export_sec_context(&minor, &acceptor, &token), "export");
	len = token.length;
	check(gss_import_sec_context(&minor, &token, &acceptor), "import");
	gss_release_buffer(&minor, &token);
	return len;
}

static void
wrap_round(gss_buffer_desc *message)
{
	gss_buffer_desc sealed, opened;
	OM_uint32 minor;
	int conf;

	check(gss_wrap(&minor, initiator, 1, GSS_C_QOP_DEFAULT, message, &conf,
	    &sealed), "wrap");
	check(gss_unwrap(&minor, acceptor, &sealed, &opened, &conf, NULL),
	    "unwrap");
	if (!conf || opened.length != message->length)
		check(GSS_S_FAILURE, "what was unwrapped");
	gss_release_buffer(&minor, &sealed);
	gss_release_buffer(&minor, &opened);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static long
count(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (n < 1 || *end != '\0') {
		fprintf(stderr, "mitbench: bad number %s\n", text);
		exit(2);
	}
	return n;
}

int
main(int argc, char **argv)
{
	gss_buffer_desc message = { 0, NULL };
	int exporting = argc == 3 && strcmp(argv[1], "export") == 0;
	int wrapping = argc == 4 && strcmp(argv[1], "wrap") == 0;
	long rounds;
	double began;

	if (argc == 2 && strcmp(argv[1], "size") == 0) {
		establish();
		printf("%zu\n", export_round());
		return 0;
	}
	if (!exporting && !wrapping) {
		fprintf(stderr, "usage: mitbench export N | wrap SIZE N | size\n");
		return 2;
	}
	rounds = count(argv[argc - 1]);
	message.length = wrapping ? (size_t)count(argv[2]) : 64;
	message.value = calloc(1, message.length);
	if (message.value == NULL)
		return 1;
	establish();
	wrap_round(&message);	/* derives keys, warms up */
	began = now();
	for (long i = 0; i < rounds; i++)
		if (exporting)
			export_round();
		else
			wrap_round(&message);
	printf("%.1f\n", (now() - began) / (double)rounds);
	wrap_round(&message);	/* the context has to have survived */
	free(message.value);
	return 0;
}
