// Package pgembed runs a private PostgreSQL, so that the server and its tests
// need no set-up.
//
// # Promises
//
//   - [Start] gives a usable database or an error that says what to do. It
//     looks for the programs of PostgreSQL 15 or newer on this machine and
//     downloads them once when there are none.
//   - One folder has at most one PostgreSQL, whatever dies when. A second
//     process that starts on the folder joins the first one's server; the last
//     one to [Server.Stop] stops PostgreSQL. A server left behind by a killed
//     process is adopted by the next Start. The data outlives all of them.
//   - PostgreSQL never runs as root. A process of root runs it under the
//     account postgres, else nobody, which owns the data and nothing else.
//   - The package starts no goroutine that outlives a call.
//
// # How the folder is shared
//
// Three files are locked with flock(2), whose locks the kernel drops with the
// last process that holds them, so that kill -9 leaves nothing to clean up:
//
//	start.lock       exclusive, while a process decides to start or stop
//	users.lock       shared, by each Server between Start and Stop
//	postmaster.lock  exclusive, inherited by PostgreSQL and all its processes
//
// They are taken in this order. users.lock says whether somebody else still
// needs the server. postmaster.lock says whether anything of PostgreSQL is
// alive, also where a process id says little: after a reboot, or in another
// container that shares the folder.
//
// A process of root owns the folder (mode 0711) with the locks and the
// password (0600); only data, log and run inside belong to the account of
// PostgreSQL. So that account cannot lead root astray with a link of its own,
// and root signals PostgreSQL with the rights of the account, not with its
// own.
//
// The package runs on Linux, macOS and the BSDs. It may import nothing else of
// this module.
package pgembed
