/*
 * hostile N: N exports and imports with the agent's client alone, against an agent
 * that answers anything. Whatever comes, the client ends with a fault or with what it
 * was promised, within its buffers: the sanitizers watch.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sealctx.h"

int main(int argc, char **argv)
{
	static const char *const formats[2] = { "libgssapi_krb5.so.2/amd64", "old" };
	static unsigned char plain[MAX_PLAIN];
	int good = 0, bad = 0, n = argc > 1 ? atoi(argv[1]) : 0;
	for (int i = 0; i < n; i++) {
		struct agent a;
		uint8_t *start = malloc(MAX_START); /* so that a byte too many is seen */
		const uint8_t *at;
		size_t start_size, size;
		enum fault f = dial(&a);
		if (f == OK && i % 2) {
			f = open_token(&a, formats, plain, (size_t)(i * 37) % 70000 % sizeof plain, &at, &size);
		} else if (f == OK) {
			f = reserve(&a, formats[0], start, &start_size);
			if (f == OK)
				f = seal(&a, start, start_size, plain, (size_t)(i * 37) % sizeof plain, &at, &size);
		}
		if (f == OK) {
			uint8_t *copy = malloc(size + 1);
			memcpy(copy, at, size);
			free(copy);
			good++;
		} else {
			bad++;
		}
		if (strlen(a.text) >= MAX_TEXT || f < OK || f > LAST_FAULT)
			abort();
		hang_up(&a);
		free(start);
	}
	printf("good %d bad %d\n", good, bad);
	return 0;
}
