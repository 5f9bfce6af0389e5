/* Does to a credential cache, with MIT's library, what programs do to theirs in
 * time.
 *
 *	ccmod remove           remove the ticket-granting ticket and store it again
 *	ccmod notes N          store N notes, as GSS-API stores its refreshes
 *	ccmod offset SECONDS   make the cache anew, with the KDC's clock so far ahead
 *
 * The cache is the one that the environment names.
 */
#include <krb5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static krb5_context ctx;
static krb5_ccache cache;
static krb5_principal client;

static void must(const char *what, krb5_error_code code) {
	if (code != 0) {
		fprintf(stderr, "ccmod: %s: %s\n", what, krb5_get_error_message(ctx, code));
		exit(1);
	}
}

/* Returns the ticket-granting ticket, and in want what it was found by. */
static krb5_creds granting(krb5_creds *want) {
	krb5_creds found;
	memset(want, 0, sizeof *want);
	want->client = client;
	must("krb5_build_principal", krb5_build_principal(ctx, &want->server, client->realm.length, client->realm.data,
		"krbtgt", client->realm.data, (char *)NULL));
	must("krb5_cc_retrieve_cred", krb5_cc_retrieve_cred(ctx, cache, 0, want, &found));
	return found;
}

static void remove_and_store(void) {
	krb5_creds want, found = granting(&want);
	must("krb5_cc_remove_cred", krb5_cc_remove_cred(ctx, cache, 0, &want));
	must("krb5_cc_store_cred", krb5_cc_store_cred(ctx, cache, &found));
}

static void store_notes(int n) {
	for (int i = 0; i < n; i++) {
		char text[16];
		int len = snprintf(text, sizeof text, "%d", 1700000000 + i);
		krb5_data data = {.length = len, .data = text};
		must("krb5_cc_set_config", krb5_cc_set_config(ctx, cache, NULL, "refresh_time", &data));
	}
}

static void set_offset(long ahead) {
	krb5_creds want, found = granting(&want);
	krb5_int32 now, usec;
	must("krb5_us_timeofday", krb5_us_timeofday(ctx, &now, &usec));
	must("krb5_set_real_time", krb5_set_real_time(ctx, now + ahead, usec));
	must("krb5_cc_initialize", krb5_cc_initialize(ctx, cache, client));
	must("krb5_cc_store_cred", krb5_cc_store_cred(ctx, cache, &found));
}

int main(int argc, char **argv) {
	if (argc < 2 || krb5_init_context(&ctx) != 0)
		return 1;
	must("krb5_cc_default", krb5_cc_default(ctx, &cache));
	must("krb5_cc_get_principal", krb5_cc_get_principal(ctx, cache, &client));
	if (strcmp(argv[1], "remove") == 0)
		remove_and_store();
	else if (strcmp(argv[1], "notes") == 0 && argc == 3)
		store_notes(atoi(argv[2]));
	else if (strcmp(argv[1], "offset") == 0 && argc == 3)
		set_offset(atol(argv[2]));
	else
		return 1;
	return 0;
}
