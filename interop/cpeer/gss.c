#include "gss.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 1.2.840.113554.1.2.2 */
static gss_OID_desc mech_krb5 = { 9,
	(void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" };

/* 1.2.840.113554.1.2.1.4, GSS_C_NT_HOSTBASED_SERVICE */
static gss_OID_desc nt_service = { 10,
	(void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04" };

/* 1.2.840.113554.1.2.2.5.5, GSS_C_INQ_SSPI_SESSION_KEY of both makers */
static gss_OID_desc inq_session_key = { 11,
	(void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05\x05" };

const char *
gss_words(OM_uint32 major)
{
	static const struct {
		OM_uint32 bit;
		const char *word;
	} supplementary[] = {
		{ GSS_S_DUPLICATE_TOKEN, "duplicate" },
		{ GSS_S_OLD_TOKEN, "old" },
		{ GSS_S_UNSEQ_TOKEN, "unseq" },
		{ GSS_S_GAP_TOKEN, "gap" },
		{ GSS_S_CONTINUE_NEEDED, "continue" },
	};
	static const struct {
		OM_uint32 code;
		const char *word;
	} routine[] = {
		{ GSS_S_BAD_MIC, "bad-mic" },
		{ GSS_S_BAD_BINDINGS, "bad-bindings" },
		{ GSS_S_NO_CONTEXT, "no-context" },
		{ GSS_S_DEFECTIVE_TOKEN, "defective-token" },
		{ GSS_S_CONTEXT_EXPIRED, "context-expired" },
		{ GSS_S_UNAVAILABLE, "unavailable" },
	};
	static char words[128];
	size_t i;

	if (major == GSS_S_COMPLETE)
		return "complete";
	words[0] = '\0';
	for (i = 0; i < sizeof supplementary / sizeof *supplementary; i++)
		if (major & supplementary[i].bit) {
			strcat(words, *words ? "+" : "");
			strcat(words, supplementary[i].word);
		}
	if (!GSS_ERROR(major))
		return words;
	strcat(words, *words ? "+" : "");
	for (i = 0; i < sizeof routine / sizeof *routine; i++)
		if (GSS_ERROR(major) == routine[i].code) {
			strcat(words, routine[i].word);
			return words;
		}
	sprintf(words + strlen(words), "error-%08x", (unsigned)major);
	return words;
}

const char *
gss_explain(OM_uint32 major, OM_uint32 minor)
{
	static char text[1024];
	OM_uint32 maj, min, more = 0;
	gss_buffer_desc s = GSS_C_EMPTY_BUFFER;

	maj = gss_display_status(&min, minor, GSS_C_MECH_CODE, &mech_krb5,
	    &more, &s);
	snprintf(text, sizeof text, "%s: %.*s", gss_words(major),
	    maj == GSS_S_COMPLETE ? (int)s.length : 0,
	    s.value ? (const char *)s.value : "");
	gss_release_buffer(&min, &s);
	return text;
}

/* Receive a token of establishment. */
static int
read_token(struct peer *p, gss_buffer_desc *tok)
{
	struct bytes body;
	char kind;

	if (wire_read(p->fd, &kind, &body) != 0)
		return -1;
	tok->value = body.data;
	tok->length = body.len;
	return kind == WIRE_TOKEN ? 0 : -1;
}

int
gss_initiate(struct peer *p, const char *service, OM_uint32 flags,
    OM_uint32 *major, OM_uint32 *minor)
{
	gss_buffer_desc text = { strlen(service), (void *)service };
	gss_buffer_desc in = GSS_C_EMPTY_BUFFER, out;
	gss_name_t target;
	OM_uint32 min, got = 0;
	int rc = 0;

	*major = gss_import_name(minor, &text, &nt_service, &target);
	if (*major != GSS_S_COMPLETE)
		return -1;
	do {
		*major = gss_init_sec_context(minor, GSS_C_NO_CREDENTIAL,
		    &p->ctx, target, &mech_krb5, flags, 0, p->bindings, &in, NULL, &out, &got, NULL);
		free(in.value);
		in.value = NULL;
		in.length = 0;
		if (GSS_ERROR(*major))
			rc = -1;
		else if (out.length > 0)
			rc = wire_write(p->fd, WIRE_TOKEN, out.value,
			    out.length);
		gss_release_buffer(&min, &out);
		if (rc == 0 && (*major & GSS_S_CONTINUE_NEEDED))
			rc = read_token(p, &in);
	} while (rc == 0 && (*major & GSS_S_CONTINUE_NEEDED));
	gss_release_name(&min, &target);
	p->out = 'i';
	p->in = 'a';
	/* A mechanism that gives less than was asked for tests nothing. */
	if (rc == 0 && (got & flags) != flags) {
		*major = GSS_S_UNAVAILABLE;
		return -1;
	}
	return rc;
}

int
gss_accept(struct peer *p, OM_uint32 *major, OM_uint32 *minor)
{
	gss_buffer_desc in, out;
	OM_uint32 min;
	int rc = 0;

	*major = GSS_S_COMPLETE;
	*minor = 0;
	do {
		if (read_token(p, &in) != 0)
			return -1;
		*major = gss_accept_sec_context(minor, &p->ctx,
		    GSS_C_NO_CREDENTIAL, &in, p->bindings, NULL, NULL, &out, NULL, NULL, NULL);
		free(in.value);
		if (GSS_ERROR(*major))
			rc = -1;
		else if (out.length > 0)
			rc = wire_write(p->fd, WIRE_TOKEN, out.value,
			    out.length);
		gss_release_buffer(&min, &out);
	} while (rc == 0 && (*major & GSS_S_CONTINUE_NEEDED));
	p->out = 'a';
	p->in = 'i';
	return rc;
}

/* Copy a buffer of the library and release it. */
static OM_uint32
take(gss_buffer_desc *from, struct bytes *to)
{
	OM_uint32 min;

	to->len = from->length;
	to->data = malloc(from->length + 1);
	if (to->data != NULL)
		memcpy(to->data, from->value, from->length);
	gss_release_buffer(&min, from);
	return to->data != NULL ? GSS_S_COMPLETE : GSS_S_FAILURE;
}

OM_uint32
gss_protect(struct peer *p, char kind, const uint8_t *msg, size_t len,
    struct bytes *body)
{
	gss_buffer_desc in = { len, (void *)msg }, out;
	OM_uint32 major, minor;
	int rc, conf = 0;

	if (kind != WIRE_MIC) {
		major = gss_wrap(&minor, p->ctx, kind == WIRE_SEALED,
		    GSS_C_QOP_DEFAULT, &in, &conf, &out);
		if (major != GSS_S_COMPLETE)
			return major;
		if (conf != (kind == WIRE_SEALED))
			return GSS_S_FAILURE;
		return take(&out, body);
	}
	major = gss_get_mic(&minor, p->ctx, GSS_C_QOP_DEFAULT, &in, &out);
	if (major != GSS_S_COMPLETE)
		return major;
	rc = wire_join_mic(body, msg, len, out.value, out.length);
	gss_release_buffer(&minor, &out);
	return rc == 0 ? GSS_S_COMPLETE : GSS_S_FAILURE;
}

OM_uint32
gss_open(struct peer *p, char kind, const struct bytes *body,
    struct bytes *msg)
{
	gss_buffer_desc in, mic, out = GSS_C_EMPTY_BUFFER;
	struct bytes m, t;
	OM_uint32 major, minor;
	int conf = 0;

	msg->data = NULL;
	msg->len = 0;
	if (kind != WIRE_MIC) {
		in.value = body->data;
		in.length = body->len;
		major = gss_unwrap(&minor, p->ctx, &in, &out, &conf, NULL);
		if (GSS_ERROR(major))
			return major;
		if (conf != (kind == WIRE_SEALED))
			major = GSS_S_FAILURE;
		if (take(&out, msg) != GSS_S_COMPLETE)
			major = GSS_S_FAILURE;
		return major;
	}
	if (wire_split_mic(body, &m, &t) != 0)
		return GSS_S_DEFECTIVE_TOKEN;
	in.value = m.data;
	in.length = m.len;
	mic.value = t.data;
	mic.length = t.len;
	major = gss_verify_mic(&minor, p->ctx, &in, &mic, NULL);
	if (GSS_ERROR(major))
		return major;
	msg->len = m.len;
	msg->data = malloc(m.len + 1);
	if (msg->data == NULL)
		return GSS_S_FAILURE;
	memcpy(msg->data, m.data, m.len);
	return major;
}

OM_uint32
gss_travel(struct peer *p, size_t *toklen)
{
	gss_buffer_desc tok = GSS_C_EMPTY_BUFFER;
	OM_uint32 major, minor, min;

	major = gss_export_sec_context(&minor, &p->ctx, &tok);
	if (major != GSS_S_COMPLETE)
		return major;
	*toklen = tok.length;
	major = gss_import_sec_context(&minor, &tok, &p->ctx);
	gss_release_buffer(&min, &tok);
	return major;
}

OM_uint32
gss_session_key(struct peer *p, struct bytes *key)
{
	gss_buffer_set_t set = GSS_C_NO_BUFFER_SET;
	OM_uint32 major, minor, min;

	major = gss_inquire_sec_context_by_oid(&minor, p->ctx,
	    &inq_session_key, &set);
	if (major != GSS_S_COMPLETE)
		return major;
	if (set->count < 1)
		major = GSS_S_UNAVAILABLE;
	else {
		key->len = set->elements[0].length;
		key->data = malloc(key->len + 1);
		if (key->data == NULL)
			major = GSS_S_FAILURE;
		else
			memcpy(key->data, set->elements[0].value, key->len);
	}
	gss_release_buffer_set(&min, &set);
	return major;
}
