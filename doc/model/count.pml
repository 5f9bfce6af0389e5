/* The limit: the count of a register's outstanding tokens, beside the slots.
 * README.md says what it covers, how it is run and what is left out. Who owns what is
 * in ownership.pml; here a claim is a swap that succeeds, and no epoch ends.
 *
 * An atomic statement is one step. The code names its steps in comments ("step: count"),
 * and the statements here have the same names.
 *
 * The broken variants, each of which must fail: CORRECTING, NOTURN, ONETURN, NOMADE,
 * ANYTURN.
 */

#ifndef EXPORTERS
#define EXPORTERS 2
#endif
#ifndef TRIES
#define TRIES 2		/* reservations of each exporter, one after the other */
#endif
#ifndef IMPORTERS
#define IMPORTERS 3
#endif
#ifndef RECOUNTERS
#define RECOUNTERS 1	/* one after the other, and beside each other if one is slow */
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef LIMIT
#define LIMIT 1
#endif

/* The count, three fields of one word. */
byte turn, made, tokens;

/* A slot: 0 if it is free, else 1 and the token that has it. A word never comes back to
 * its slot, and neither does a token. */
#define TOKENS (EXPORTERS * TRIES)
byte slot[SLOTS];
byte at[TOKENS];
bit expired[TOKENS];	/* its time is over, and every clock says so */

/* What the properties need and no process reads. */
bit standing[TOKENS];	/* the reservation has returned, and the token is not claimed */
byte begun;		/* exporters and importers that have begun, of each kind in their order */
byte chosen;

#define has(k) (slot[at[k]] == (k) + 1)
#define live(k) (standing[k] && !expired[k])
#if TOKENS == 2
#define OUTSTANDING (live(0) + live(1))
#else
#define OUTSTANDING (live(0) + live(1) + live(2) + live(3))
#endif

/* uncount takes one off the count, unless the turn is another. */
inline uncount(t, reserved) {
	atomic {					/* step: uncount */
		if
#ifdef ANYTURN
		:: tokens > 0 ->
#else
		:: turn == t && tokens > 0 ->
#endif
			tokens--;
			if
			:: reserved && made > 0 -> made--
			:: else
			fi;
			assert(OUTSTANDING <= tokens)
		:: else
		fi
	}
}

proctype exporter(byte c) {
	byte k = c * TRIES, t, s;
	bit ok;

end_turn:
	atomic { begun == c -> begun++ }
again:	atomic {					/* step: count */
		tokens++;
		made++;
		t = turn;
		ok = tokens <= LIMIT
	}
	if
	:: ok -> atomic {				/* step: reserve */
			s = 0;
			do
			:: s < SLOTS && !(slot[s] == 0 || expired[slot[s] - 1]) -> s++
			:: else -> break
			od;
			if
			:: s < SLOTS && slot[s] == 0 && s + 1 < SLOTS && slot[s + 1] == 0 -> s++	/* or the other */
			:: true
			fi;
			ok = s < SLOTS;
			if
			:: ok -> slot[s] = k + 1; at[k] = s
			:: else
			fi;
			s = 0
		}
	:: else
	fi;
	if
	:: !ok -> uncount(t, 1)
	:: ok -> atomic {				/* step: counted */
#ifndef NOTURN
			ok = (turn == t);
#endif
			standing[k] = ok;
			assert(OUTSTANDING <= LIMIT && OUTSTANDING <= tokens)
		}
		if
		:: !ok && has(k) -> slot[at[k]] = 0	/* given back */
		:: else
		fi
	fi;
	t = 0;
	if
	:: k % TRIES < TRIES - 1 -> k++; goto again
	:: else
	fi;
done:	atomic { k = 0; t = 0; ok = 0 }
}

/* claim: a token that stands is claimed, by whomever. */
proctype importer(byte id) {
	byte k, t;
	bit ok;

end_wait:
	if
	:: atomic { chosen == id && standing[0] -> k = 0; chosen++; t = turn }	/* step: turn */
	:: atomic { chosen == id && standing[1] -> k = 1; chosen++; t = turn }
#if TOKENS > 2
	:: atomic { chosen == id && standing[2] -> k = 2; chosen++; t = turn }
	:: atomic { chosen == id && standing[3] -> k = 3; chosen++; t = turn }
#endif
	fi;
	atomic {					/* step: claim */
		ok = (slot[at[k]] == k + 1);
		if
		:: ok -> slot[at[k]] = 0; standing[k] = 0
		:: else
		fi
	}
	if
	:: ok -> uncount(t, 0)
	:: else
	fi;
done:	atomic { k = 0; t = 0; ok = 0 }
}

/* counting looks at a slot, frees it if its token has expired, and counts it if not.
 * An old clock may take an expired token for a live one. */
inline counting(s, w, n) {
	atomic { w = slot[s] }
	if
	:: w > 0 && expired[w - 1] -> atomic {		/* step: tidy */
			if
			:: slot[s] == w -> slot[s] = 0; w = 0
			:: else -> w = slot[s]
			fi
		}
	:: true
	fi;
	atomic {
		if
		:: w > 0 -> n++
		:: else
		fi;
		w = 0;
		s++
	}
}

inline recount(t, s, w, n) {
#ifdef CORRECTING
	t = tokens;
#else
	atomic {					/* step: recount */
#ifndef ONETURN
		turn++;
#endif
		made = 0;
		t = turn
	}
#endif
	do
	:: s < SLOTS -> counting(s, w, n)
	:: else -> break
	od;
	s = 0;
#ifdef CORRECTING
	atomic { tokens = tokens + n - t }
#else
	atomic {					/* step: recounted */
		if
		:: turn == t ->
			turn++;
#ifdef NOMADE
			tokens = n;
#else
			tokens = n + made;
#endif
			made = 0;
			assert(OUTSTANDING <= tokens)
		:: else
		fi
	}
#endif
	t = 0; n = 0
}

proctype recounter() {
	byte t, s, w, n;

	recount(t, s, w, n);
done:	atomic { t = 0; s = 0; w = 0; n = 0 }
}

/* Each token expires at some time, or not. */
active proctype clock() {
end:	do
	:: atomic { has(0) && !expired[0] -> expired[0] = 1 }
	:: atomic { has(1) && !expired[1] -> expired[1] = 1 }
#if TOKENS > 2
	:: atomic { has(2) && !expired[2] -> expired[2] = 1 }
	:: atomic { has(3) && !expired[3] -> expired[3] = 1 }
#endif
	od
}
init {
	byte i;

	atomic {
		for (i : 0 .. EXPORTERS - 1) { run exporter(i) }
		i = 0;
		for (i : 0 .. IMPORTERS - 1) { run importer(i) }
		i = 0;
		for (i : 0 .. RECOUNTERS - 1) { run recounter() }
		i = 0
	}
}
