package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

// Exit codes of the command line.
const (
	exitOK          = 0
	exitFailed      = 1 // or a check is red, or the job that was waited for did not complete
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitNotAllowed  = 5
	exitUnavailable = 6
	exitWaitRanOut  = 124 // as timeout(1)
	exitInterrupted = 130 // as a shell says it of SIGINT
)

var (
	// errUsage marks what the caller got wrong.
	errUsage = errors.New("usage")
	// errWaitRanOut ends a wait that --timeout bounds.
	errWaitRanOut = errors.New("the wait ran out")
	// errRed is a check that is red, and has been shown.
	errRed = errors.New("not well")
	// errUnwell is a server that says of itself that it is unavailable.
	errUnwell = errors.New("the server is unavailable")
	// errUnreached ends an examination of a database that does not answer.
	errUnreached = errors.New("the database cannot be reached")
)

// exitCode is the exit code for the end of a command line; ctx ends at a signal.
func exitCode(ctx context.Context, err error) int {
	var problem *client.Problem
	var unreachable *client.UnreachableError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, errWaitRanOut):
		return exitWaitRanOut
	case errors.Is(err, errUsage), errors.Is(err, client.ErrAddress):
		return exitUsage
	case errors.As(err, &problem):
		return exitOfProblem(problem)
	case errors.As(err, &unreachable), errors.Is(err, errUnwell), errors.Is(err, errUnreached):
		return exitUnavailable
	}
	return exitFailed
}

func exitOfProblem(p *client.Problem) int {
	switch p.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitNotAllowed
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict, http.StatusGone, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return exitConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnavailable
	case http.StatusUnprocessableEntity:
		if p.Code == "idempotency_reused" {
			return exitConflict
		}
		return exitUsage
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong:
		return exitUsage
	}
	return exitFailed
}

// explain says why a command line failed, and what helps.
func explain(w io.Writer, err error, code int) {
	if code == exitInterrupted {
		return // whoever pressed the key knows
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintf(w, "%s\nRun 'mini-asynq --help' for usage.\n", clean(err.Error()))
		return
	}
	fmt.Fprintln(w, "mini-asynq: "+cleanLines(err.Error()))
	var problem *client.Problem
	var unreachable *client.UnreachableError
	switch {
	case errors.As(err, &unreachable) && unreachable.NeverSent:
		fmt.Fprintln(w, "Is the server running there? --server or MINIASYNQ_SERVER names another one.")
	case !errors.As(err, &problem):
	case problem.Status == http.StatusUnauthorized:
		fmt.Fprintln(w, "Say who you are: MINIASYNQ_API_KEY, --api-key-file FILE or --user NAME (a local server: --user admin).")
	case problem.RequiredScope != "":
		fmt.Fprintf(w, "The credential lacks the scope %s.\n", clean(problem.RequiredScope))
	case problem.Hint != "":
		fmt.Fprintln(w, clean(problem.Hint)+".")
	case problem.Code == "cursor_expired" && problem.Floor != "":
		fmt.Fprintf(w, "The oldest cursor that works is %s; --after earliest begins there.\n", clean(problem.Floor))
	case problem.JobStatus != "" && problem.Code == "invalid_transition":
		fmt.Fprintf(w, "The job is %s; possible: %s.\n", clean(problem.JobStatus), clean(listOf(problem.AllowedActions)))
	}
}
