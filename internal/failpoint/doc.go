// Package failpoint marks the places where a fault may strike: before and after commits, between the steps of a
// protocol. In a build without the tag `failpoints`, which is every release, Hit is an empty function that the compiler
// removes. With the tag a test arms a place by name, in its own process (Arm) or in a server it starts, through
// MINIASYNQ_FAILPOINTS:
//
//	MINIASYNQ_FAILPOINTS='jobs.turn.before_commit=kill@3,events.pacer.promised=sleep:200ms'
//
// An action is kill (SIGKILL to the own process), stop (SIGSTOP), panic, error, or sleep:<duration>; @n strikes at the
// n-th hit only, ~p with a probability between 0 and 1.
package failpoint
