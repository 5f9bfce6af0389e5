// Package fuzz holds the fuzz targets of the sealed token: of the exported API,
// and of the parsers under internal/. Those of the Kerberos mechanism are beside
// their parsers. run.sh runs every target of the module for a while;
// coverage.sh holds that the seeds and the corpora in testdata reach the
// parsers' statements.
//
// A target does more than wait for a crash. What parses must marshal to the same
// bytes; what an altered token gives must be the one error and cost nothing; and
// what a token gives that was sealed again under the right key must be what a
// model says, which was written from doc/SPEC.md with nothing of the code.
package fuzz
