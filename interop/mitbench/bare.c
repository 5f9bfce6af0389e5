/*
 * bare SOCKET N: N times the exchanges that an export and an import through
 * libsealctx-gss make, of the same sizes, with a server that only answers. It prints
 * the nanoseconds of one round.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int dial(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strncpy(to.sun_path, path, sizeof to.sun_path - 1);
	if (fd < 0 || connect(fd, (void *)&to, sizeof to)) {
		perror("bare");
		exit(1);
	}
	return fd;
}

/* A request says how long it is and how long the answer shall be. */
static void exchange(int fd, uint32_t request, uint32_t answer)
{
	static char frame[65536];
	memcpy(frame, &request, 4), memcpy(frame + 4, &answer, 4);
	if (send(fd, frame, request, MSG_NOSIGNAL) != (ssize_t)request)
		exit(1);
	for (ssize_t got = 0, n; got < (ssize_t)answer; got += n)
		if ((n = recv(fd, frame, answer - (size_t)got, 0)) <= 0)
			exit(1);
}

int main(int argc, char **argv)
{
	struct timespec from, to;
	long n = argc > 2 ? atol(argv[2]) : 0;
	if (n < 1)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (long i = 0; i < n; i++) {
		int fd = dial(argv[1]);
		exchange(fd, 54, 180);    /* prepare */
		exchange(fd, 1350, 1740); /* seal */
		close(fd);
		fd = dial(argv[1]);
		exchange(fd, 1830, 1190); /* open any */
		close(fd);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.0f\n", ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / (double)n);
	return 0;
}
