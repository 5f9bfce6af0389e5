/* One owner, and no key without its register: the words of a register, and the steps of
 * sealing, opening, taking back, rotation, retirement and restart around them.
 * README.md says what it covers, how it is run and what is left out. The count of
 * outstanding tokens has a model of its own, count.pml.
 *
 * An atomic statement is one step. The code names its steps in comments ("step: claim"),
 * and the statements here have the same names. A process that dies is one that takes no
 * further step. The search looks at every state that can be reached, and so at processes
 * that stop at any step, for a while or for good, while the others go on.
 *
 * The broken variants, each of which must fail: LOADSTORE, KEEPGEN, NOLOOK, NOCHECK,
 * ROUND, DEADLAST, WIPEFIRST.
 */

#ifndef EXPORTERS
#define EXPORTERS 2
#endif
#ifndef IMPORTERS
#define IMPORTERS 3
#endif
#ifndef TRIES
#define TRIES 1		/* tokens that each exporter makes of its context, one after the other */
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef LASTTICK
#define LASTTICK 1	/* where the clock ends: a token can be taken over by then */
#endif
#ifndef TICKS
#define TICKS 1		/* of the clock in a second of the register */
#endif

/* The clock. A token lives for one tick of the clock of the process that reserved it.
 * The clocks of two processes differ by up to two ticks, which is a thousand times what
 * they may: an exporter's is right, late or ahead, an importer's is right.
 */
#define LIFETIME 1
#define AHEAD 2
#define second(t) ((t) / TICKS)
#define LESS(a, b) ((a) < (b) -> (a) : (b))	/* times behind the end of the clock are alike */
byte now;

/* The word of a slot in a byte: generation : 3 | expiry : 3 | state : 2. */
#define FREE 1
#define OUT 2
#define SPENT 3
#define WORD(g, x, s) ((g) * 32 + (x) * 4 + (s))
#define gen(w) ((w) / 32)
#define expiry(w) (((w) / 4) % 8)
#define st(w) ((w) % 4)
#define SWEPT WORD(7, 0, SPENT)
#define EXPIRED(w, x) (st(w) == OUT && expiry(w) < second(x))
byte slot[SLOTS];

/* The epoch. */
#define OPEN 1
#define CLOSED 2
#define DEAD 3
byte state = OPEN;
bit key = 1;		/* 0: wiped */

/* Tokens. Once sent they are everybody's for ever, to try as often as they like. */
#define TOKENS (EXPORTERS * TRIES)
byte at[TOKENS], word[TOKENS], expires[TOKENS];
bit sent[TOKENS];
#define valid(k) (now < expires[k])	/* on the slowest clock */

/* What the properties need and no process reads. */
bit owned[EXPORTERS];		/* the context has an owner */
bit standing[TOKENS];		/* the reservation has returned, and the token is not claimed */
bit spent[TOKENS];		/* claimed, cancelled or taken back */
byte holder[SLOTS];		/* 1 and the token that the slot had last */
byte begun;			/* exporters that have tried to reserve */

#define context(k) ((k) / TRIES)

/* own: a context gets an owner only if it has none. */
inline own(c) {
	assert(!owned[c]);
	owned[c] = 1
}

/* over: a token that can still be claimed does not lose its slot. */
inline over(s) {
	assert(!standing[holder[s] - 1] || !valid(holder[s] - 1));
	standing[holder[s] - 1] = 0
}

/* claimed: a token is claimed once, and by its own word. */
inline claimed(k) {
	assert(!spent[k] && holder[at[k]] == k + 1);
	spent[k] = 1;
	standing[k] = 0
}

/* swap is the claim. Cancel, take-back and giving back are the same. */
inline swap(k, ok) {
#ifdef LOADSTORE
	ok = (slot[at[k]] == word[k]);
	atomic {
		if
		:: ok -> slot[at[k]] = WORD(gen(word[k]), 0, FREE); claimed(k)
		:: else
		fi
	}
#else
	atomic {					/* step: claim */
		ok = (slot[at[k]] == word[k]);
		if
		:: ok -> slot[at[k]] = WORD(gen(word[k]), 0, FREE); claimed(k)
		:: else
		fi
	}
#endif
}

#ifdef NOCHECK
#define again(k) true
#else
#define again(k) (valid(k) && state != DEAD)		/* step: check again */
#endif

/* An exporter exports its context. Exporters are alike: of runs that differ only in who
 * is called what, the one is looked at in which they try to reserve in their order. */
proctype exporter(byte c) {
	byte x, w, s, k = c * TRIES;
	bit b, ok;

#ifdef NOLOOK
	state == OPEN;					/* step: look */
#endif
	/* Two simplifications that leave no run out. The state is not looked at before: it
	 * never becomes OPEN again, so that the second look finds all that a first would.
	 * And a load followed by a compare-and-swap is one step, since a word never comes
	 * back to its slot. The clock may have been read long ago. */
again:	atomic {					/* step: reserve */
		begun >= c;
		x = now;
		do
		:: x > 0 -> x--
		:: break
		od;
		if
		:: skip
		:: x = x + AHEAD
		fi;
		if
		:: s = 0
		:: s = 1
		fi;
		w = slot[s];
		ok = st(w) == FREE || EXPIRED(w, x);
		if
		:: ok ->
			if
			:: st(w) == OUT -> over(s)
			:: else
			fi;
			at[k] = s;
			expires[k] = LESS(x + LIFETIME, LASTTICK + 1);
			word[k] = WORD(gen(w) + 1, LESS(second(x + LIFETIME) + 1, second(LASTTICK + AHEAD)), OUT);
#ifdef KEEPGEN
			word[k] = word[k] - WORD(1, 0, 0);
#endif
#ifdef ROUND
			word[k] = word[k] - WORD(0, 1, 0);
#endif
			slot[s] = word[k];
			holder[s] = k + 1
		:: else
		fi;
		if
		:: begun == c -> begun++
		:: else
		fi;
		x = 0; w = 0; s = 0
	}
	if
	:: !ok -> goto done				/* full */
	:: else
	fi;
	/* The reservation returns. */
	atomic {					/* step: look again */
#ifndef NOLOOK
		ok = (state == OPEN);
#endif
		standing[k] = ok && slot[at[k]] == word[k];
		b = key					/* step: derive */
	}
	if
	:: ok -> atomic {				/* step: derived */
			ok = (state != DEAD);
			assert(!ok || b);		/* no key that is going is used */
			b = 0;
			if
			:: ok -> owned[c] = 0		/* the mechanism exports */
			:: ok = 0			/* the mechanism could not, or the key is gone */
			fi
		}
	:: else -> b = 0
	fi;
	if
	:: ok -> atomic {
#ifndef AGENT
			ok = valid(k) && state != DEAD;	/* step: check again */
			/* A token that leaves was not swept before. */
			assert(!ok || slot[at[k]] != SWEPT);
#endif
			sent[k] = ok			/* the token leaves */
		}
	:: else
	fi;
	/* Cancel, or take back, or neither. An exporter that takes back checks as an importer
	 * does, which can only keep it from the swap. */
	if
	:: sent[k] -> goto done
	:: true						/* the exporter takes it back */
	fi;
	b = sent[k];
	swap(k, ok);
	if
	:: ok && b -> atomic {
			ok = again(k);
			if
			:: ok -> own(c)
			:: else
			fi
		}
	:: else -> ok = ok && owned[c]
	fi;
	b = 0;
#if TRIES > 1
	if
	:: ok && k % TRIES < TRIES - 1 -> k++; goto again
	:: else
	fi;
#endif
done:	atomic { ok = 0; k = 0 }
}

/* Importers are alike, and each knows no more than its step, its token and one bit. So
 * it matters only how many stand where, and one process moves them all.
 *
 * What is checked before the claim stays false once it is false. So an importer that
 * finds all of it true, one after the other, would have found all of it true at the
 * first, and that is one step.
 */
byte fresh = IMPORTERS;		/* have no token yet */
byte whole[TOKENS];		/* read the key, and it was whole */
byte broken[TOKENS];		/* read the key, and it was not */
byte ready[TOKENS];		/* go to claim */
#ifdef LOADSTORE
byte loaded[TOKENS];
#endif
byte mine[TOKENS];		/* claimed in time */
byte late[TOKENS];		/* claimed too late */

#define IN_TIME(k) if :: valid(k) && state != DEAD -> mine[k]++ :: else -> late[k]++ fi
#define FREED(k) slot[at[k]] = WORD(gen(word[k]), 0, FREE); claimed(k); IN_TIME(k)

#ifdef LOADSTORE
#define CLAIM(k)							\
	:: atomic { ready[k] > 0 -> ready[k]--;				\
		if							\
		:: slot[at[k]] == word[k] -> loaded[k]++		\
		:: else							\
		fi							\
	}								\
	:: atomic { loaded[k] > 0 -> loaded[k]--; FREED(k) }
#else
#define CLAIM(k)							\
	:: atomic { ready[k] > 0 -> ready[k]--;		/* step: claim */ \
		if							\
		:: slot[at[k]] == word[k] -> FREED(k)			\
		:: else							\
		fi							\
	}
#endif

#define IMPORT(k)							\
	:: atomic { fresh > 0 && sent[k] -> fresh--;			\
		if							\
		:: state == DEAD			/* step: find */ \
		:: !valid(k)				/* step: clock */ \
		:: else -> if				/* step: derive */ \
			:: key -> whole[k]++				\
			:: else -> broken[k]++				\
			fi						\
		fi							\
	}								\
	:: atomic { whole[k] > 0 -> whole[k]--;		/* step: alive */ \
		if							\
		:: state != DEAD -> ready[k]++				\
		:: else							\
		fi							\
	}								\
	:: atomic { broken[k] > 0 -> broken[k]--;			\
		assert(state == DEAD)	/* no key that is going is used */ \
	}								\
	CLAIM(k)							\
	:: atomic { mine[k] > 0 -> mine[k]--;				\
		if							\
		:: again(k) -> own(context(k))				\
		:: else							\
		fi							\
	}								\
	:: atomic { late[k] > 0 -> late[k]--;				\
		assert(!again(k))	/* what was late is refused */	\
	}

active proctype importers() {
end:	do
	IMPORT(0)
#if TOKENS > 1
	IMPORT(1)
#endif
#if TOKENS > 2
	IMPORT(2)
	IMPORT(3)
#endif
	od
}

/* A recount frees the slots of expired tokens, by any clock and at any time. It loads
 * and then compares and swaps, in one step as a reservation does. */
active proctype recounter() {
	byte s;

end:	do
	:: atomic {					/* step: tidy */
		EXPIRED(slot[0], now + AHEAD) || EXPIRED(slot[1], now + AHEAD);
		if
		:: EXPIRED(slot[0], now + AHEAD) -> s = 0
		:: EXPIRED(slot[1], now + AHEAD) -> s = 1
		fi;
		over(s);
		slot[s] = WORD(gen(slot[s]), 0, FREE);
		s = 0
	}
	od
}

/* What happens to the epoch. A retirement that a process died in is done again by the
 * next, step for step the same. */
active proctype maintainer() {
	byte i;
	bit idle;

	atomic {
		for (i : 0 .. SLOTS - 1) { slot[i] = FREE }
		i = 0;
		for (i : 0 .. EXPORTERS - 1) { owned[i] = 1; run exporter(i) }
		i = 0
	}
	if
	:: goto retire					/* by hand */
	:: state = CLOSED				/* step: close. A rotation */
#ifdef AGENT
	:: atomic {					/* the agent restarts */
		state = DEAD; key = 0;
		for (i : 0 .. SLOTS - 1) { slot[i] = SWEPT }
		i = 0;
		goto done
	}
#endif
	fi;
	if
	:: goto retire					/* by age, or by hand */
	:: idle = 1					/* to make room, if nothing is outstanding */
	fi;
	do
	:: i < SLOTS -> atomic { idle = idle && st(slot[i]) != OUT; i++ }
	:: else -> break
	od;
	atomic {
		i = 0;
		if
		:: !idle -> goto done
		:: else -> idle = 0
		fi;
		/* No token is lost to make room. */
		for (i : 0 .. TOKENS - 1) { assert(!standing[i] || !valid(i)) }
		i = 0
	}
retire:
#ifdef WIPEFIRST
	key = 0;
#endif
#ifndef DEADLAST
	state = DEAD;					/* step: dead */
#endif
	do
	:: i < SLOTS -> atomic { slot[i] = SWEPT; i++ }	/* step: sweep */
	:: else -> break
	od;
	i = 0;
#ifdef DEADLAST
	state = DEAD;
#endif
	key = 0;					/* step: wipe */
done:	skip
}

active proctype clock() {
	do
	:: now < LASTTICK -> now++
	:: else -> break
	od
}
