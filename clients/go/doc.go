// Package miniasynq reads the event log of a Mini Asynq server: every committed change of a job, a queue, a worker or a
// key, in order, none missing and none twice, for as long as the program runs and over its restarts.
//
//	err := miniasynq.Consume(ctx, miniasynq.Options{
//		URL:     "https://jobs.example.com",
//		Auth:    miniasynq.Bearer(key),
//		Filter:  miniasynq.Filter{Types: []string{"job.dead"}},
//		Cursors: miniasynq.FileCursors("dead.cursor"),
//	}, func(ctx context.Context, e miniasynq.Event) error {
//		return alert(ctx, e.JobID, e.Data)
//	})
//
// Consume holds one socket, and asks the server for as many events as the program can take: a slow program is waited for,
// and nothing gathers anywhere. A line that breaks, a node that goes and a database that restarts are waited for too. What
// waiting cannot mend is an error with a type:
//
//   - [ExpiredError]: the events after the cursor are no longer kept.
//   - [EpochError]: the history was lost or restored, so cursors of the old one mean nothing.
//   - [HoleError]: an event is missing. The server promises that this cannot be; Consume counts.
//   - [CloseError], [ProblemError]: the server does not want this client, or not this way.
//
// After the first two a program reads the present state from a REST list, stores the as_of of that answer as its cursor, and
// goes on.
//
// The package needs the standard library and one package for sockets, and nothing of the server.
package miniasynq
