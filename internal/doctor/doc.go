// Package doctor looks at a database and at the settings of a server from outside, and says in plain words what is wrong,
// how that shows, and what to do. It works without a server running, and it changes nothing: every look is a read-only
// transaction of its own with a deadline, so one that fails or hangs stops none of the others.
//
// A check is a value in a list. Its SQL stands beside it. What can be repaired by SQL comes with that SQL, which is printed
// and never run. docs/doctor.md has a line for each check; a test compares the two.
package doctor
