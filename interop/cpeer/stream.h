#ifndef SEALCTX_STREAM_H
#define SEALCTX_STREAM_H

#include "gss.h"

/*
 * Send messages [first, first+count) and receive as many, both at once, never
 * more than window of them unanswered. The far side may change hands at any
 * time. Every status has to be "complete" and every message exactly the next:
 * 0, or -1 with the reason in why.
 */
int stream(struct peer *p, uint64_t first, uint64_t count, uint64_t window,
    char *why, size_t whylen);

#endif
