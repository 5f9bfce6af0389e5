/*
 * negpeer: the negotiation mechanism of a C library, MIT's or Heimdal's (compiled
 * with -DHEIMDAL), without a network. It obeys one command a line on its standard
 * input and answers each with one line.
 *
 *   initiate SERVICE FLAG,...   begin an initiator's context by SPNEGO; flags are
 *                               mutual, replay, sequence, or none
 *   accept                      begin an acceptor's context
 *   give HEX                    give the context a token, "-" for an empty one
 *   mic TEXT                    sign a text; hex
 *   check TEXT HEX              verify a signature
 *
 * Answers: "complete HEX", "continue HEX" or "error MAJOR HEX"; "-" is no token.
 */
#include <gssapi/gssapi.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gss_OID_desc spnego = { 6, "\x2b\x06\x01\x05\x05\x02" };
static gss_OID_desc hostbased = { 10, "\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04" };

static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
static gss_name_t target = GSS_C_NO_NAME;
static OM_uint32 flags;

static void
print_hex(const gss_buffer_desc *b)
{
	if (b->length == 0)
		printf(" -");
	for (size_t i = 0; i < b->length; i++)
		printf("%s%02x", i == 0 ? " " : "", ((uint8_t *)b->value)[i]);
	printf("\n");
}

/* Hex text in place into bytes. */
static gss_buffer_desc
from_hex(char *text)
{
	gss_buffer_desc b = { 0, text };

	if (text == NULL || strcmp(text, "-") == 0)
		return b;
	for (unsigned v; sscanf(text + 2 * b.length, "%2x", &v) == 1; b.length++)
		text[b.length] = (char)v;
	return b;
}

static void
reset(void)
{
	OM_uint32 minor;

	if (ctx != GSS_C_NO_CONTEXT)
		gss_delete_sec_context(&minor, &ctx, GSS_C_NO_BUFFER);
	if (target != GSS_C_NO_NAME)
		gss_release_name(&minor, &target);
	ctx = GSS_C_NO_CONTEXT;
}

static void
give(char *hex)
{
	gss_buffer_desc in = from_hex(hex), out = GSS_C_EMPTY_BUFFER;
	OM_uint32 major, minor;

	if (target != GSS_C_NO_NAME)
		major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &ctx,
		    target, &spnego, flags, 0, GSS_C_NO_CHANNEL_BINDINGS, &in,
		    NULL, &out, NULL, NULL);
	else
		major = gss_accept_sec_context(&minor, &ctx,
		    GSS_C_NO_CREDENTIAL, &in, GSS_C_NO_CHANNEL_BINDINGS, NULL,
		    NULL, &out, NULL, NULL, NULL);
	if (GSS_ERROR(major))
		printf("error %lu", (unsigned long)GSS_ERROR(major) >> 16);
	else
		printf(major & GSS_S_CONTINUE_NEEDED ? "continue" : "complete");
	print_hex(&out);
	gss_release_buffer(&minor, &out);
}

static void
initiate(char *service, char *names)
{
	gss_buffer_desc name = { service != NULL ? strlen(service) : 0, service };
	OM_uint32 minor;

	flags = GSS_C_INTEG_FLAG;
	if (names != NULL && strstr(names, "mutual") != NULL)
		flags |= GSS_C_MUTUAL_FLAG;
	if (names != NULL && strstr(names, "replay") != NULL)
		flags |= GSS_C_REPLAY_FLAG;
	if (names != NULL && strstr(names, "sequence") != NULL)
		flags |= GSS_C_SEQUENCE_FLAG;
	if (GSS_ERROR(gss_import_name(&minor, &name, &hostbased, &target)))
		printf("error name -\n");
	else
		give(NULL);
}

static void
sign(char *text)
{
	gss_buffer_desc msg = { text != NULL ? strlen(text) : 0, text }, mic = GSS_C_EMPTY_BUFFER;
	OM_uint32 major, minor;

	major = gss_get_mic(&minor, ctx, GSS_C_QOP_DEFAULT, &msg, &mic);
	printf(GSS_ERROR(major) ? "error mic" : "complete");
	print_hex(&mic);
	gss_release_buffer(&minor, &mic);
}

static void
check(char *text, char *hex)
{
	gss_buffer_desc msg = { text != NULL ? strlen(text) : 0, text }, mic = from_hex(hex);
	OM_uint32 major, minor;

	major = gss_verify_mic(&minor, ctx, &msg, &mic, NULL);
	printf(major == GSS_S_COMPLETE ? "complete -\n" : "error mic -\n");
}

int
main(void)
{
	static char line[1 << 20];

	while (fgets(line, sizeof line, stdin) != NULL) {
		char *verb = strtok(line, " \n"), *one = strtok(NULL, " \n");
		char *two = strtok(NULL, " \n");

		if (verb == NULL)
			continue;
		if (strcmp(verb, "initiate") == 0) {
			reset();
			initiate(one, two);
		} else if (strcmp(verb, "accept") == 0) {
			reset();
			printf("complete -\n");
		} else if (strcmp(verb, "give") == 0)
			give(one);
		else if (strcmp(verb, "mic") == 0)
			sign(one);
		else if (strcmp(verb, "check") == 0)
			check(one, two);
		else
			printf("error verb -\n");
		fflush(stdout);
	}
	reset();
	return 0;
}
