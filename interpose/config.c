/*
 * The configuration: lines of /etc/sealctx/gss.conf, of which the first that names
 * this program counts. It is read once, as the library is loaded, before the program
 * can change its root directory or its user.
 *
 *	# program        options
 *	/usr/sbin/named  lifetime=3600
 *	/usr/bin/worker  socket=/run/sealctx/agent.sock audience=service:mail
 *	*                off
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sealctx.h"

#ifndef CONFIG_FILE
#define CONFIG_FILE "/etc/sealctx/gss.conf"
#endif
#define DEFAULT_SOCKET "/run/sealctx/agent.sock"
#define VARIABLE "SEALCTX_GSS" /* options of one program, as `sealctx run` sets them */

struct config config = { .socket = DEFAULT_SOCKET };

static bool bad(const char *where, int line, const char *why)
{
	config.bad = true;
	if (line > 0)
		snprintf(config.problem, sizeof config.problem, "%s: line %d: %s", where, line, why);
	else
		snprintf(config.problem, sizeof config.problem, "%s: %s", where, why);
	return false;
}

/* A decimal number of at most max; false for anything else. */
static bool number(const char *text, uint64_t max, uint64_t *n)
{
	*n = 0;
	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		*n = *n * 10 + (uint64_t)(*text - '0');
		if (*n > max)
			return false;
	}
	return true;
}

/* user, user:UID, group:GID or service:NAME (doc/SPEC.md, section 7). */
static bool audience(const char *text)
{
	uint64_t id;
	uint8_t kind = !strncmp(text, "user:", 5) ? 1 : !strncmp(text, "group:", 6) ? 2 : !strncmp(text, "service:", 8) ? 3 : 0;
	const char *value = kind ? strchr(text, ':') + 1 : "";
	config.audience_size = 0;
	if (!strcmp(text, "user"))
		return true;
	size_t n = strlen(value);
	if (kind == 0 || n == 0 || n > 64)
		return false;
	if (kind == 3) {
		memcpy(config.audience + 1, value, n);
	} else {
		if (!number(value, UINT32_MAX, &id))
			return false;
		for (int i = 0; i < 4; i++)
			config.audience[1 + i] = (uint8_t)(id >> (24 - 8 * i));
		n = 4;
	}
	config.audience[0] = kind, config.audience_size = 1 + n;
	return true;
}

static bool option(const char *text)
{
	if (!strncmp(text, "socket=", 7)) {
		size_t n = strlen(text + 7);
		if (text[7] != '/' || n >= sizeof config.socket)
			return false;
		memcpy(config.socket, text + 7, n + 1);
		return true;
	}
	if (!strncmp(text, "lifetime=", 9)) {
		bool ok = number(text + 9, 7 * 24 * 3600, &config.lifetime) && config.lifetime > 0;
		config.lifetime *= 1000000000;
		return ok;
	}
	if (!strncmp(text, "audience=", 9))
		return audience(text + 9);
	if (!strcmp(text, "accept-plain"))
		return config.accept_plain = true;
	if (!strcmp(text, "off"))
		return config.off = true;
	if (!strcmp(text, "on")) {
		config.off = false;
		return true;
	}
	return false;
}

static bool options(const char *where, int line, char **rest)
{
	for (char *word; (word = strtok_r(NULL, " \t", rest));)
		if (!option(word))
			return bad(where, line, "an option is unknown or has a wrong value");
	return true;
}

/* Reports whether the running program is the file at path, or was started from there. */
static bool is_program(const char *file, int line, const char *path)
{
	struct stat a, b;
	char exe[PATH_MAX];
	if (!strcmp(path, "*"))
		return true;
	if (path[0] != '/')
		return !bad(file, line, "a program is named by its absolute path, or *");
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n < 0 || stat("/proc/self/exe", &b))
		return !bad(file, line, "/proc does not say which program runs");
	if (!stat(path, &a) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return true;
	exe[n] = 0;
	char *gone = strstr(exe, " (deleted)"); /* the package was upgraded */
	if (gone && gone[10] == 0)
		*gone = 0;
	return !strcmp(path, exe);
}

static void read_lines(const char *file, char *text)
{
	char *next = text;
	for (int line = 1; next; line++) {
		char *rest, *current = next;
		next = strchr(current, '\n');
		if (next)
			*next++ = 0;
		current[strcspn(current, "#\r")] = 0;
		char *program = strtok_r(current, " \t", &rest);
		if (!program || !is_program(file, line, program))
			continue;
		if (!config.bad)
			options(file, line, &rest);
		return;
	}
}

static void read_file(const char *file)
{
	static char text[65536];
	struct stat st;
	unsigned owner = 0;
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			bad(file, 0, "cannot be opened");
		return;
	}
	ssize_t n = 0, k = -1;
	if (!trusted_path(file, 0, &owner) || owner != 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != 0 || st.st_mode & 022)
		bad(file, 0, "must be a file of root, in directories of root, that only root can write");
	else
		while ((k = read(fd, text + n, sizeof text - 1 - (size_t)n)) > 0)
			n += k;
	if (!config.bad && (k < 0 || n == sizeof text - 1 || memchr(text, 0, (size_t)n)))
		bad(file, 0, "cannot be read, has 64 KiB or more, or is no text");
	close(fd);
	if (config.bad)
		return;
	text[n] = 0;
	read_lines(file, text);
}

__attribute__((constructor)) static void load(void)
{
	const char *own = secure_getenv(VARIABLE);
	int saved = errno;
	read_file(CONFIG_FILE);
	if (own && strlen(own) > 1000)
		bad(VARIABLE, 0, "is longer than 1,000 bytes");
	if (own && !config.bad) {
		char words[1024] = "x ", *rest;
		memcpy(words + 2, own, strlen(own));
		strtok_r(words, " ", &rest);
		options(VARIABLE, 0, &rest);
	}
	errno = saved;
}
