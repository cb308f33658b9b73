package api

import (
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// problemType is one way in which a call can be refused.
type problemType struct {
	name   string // kebab-case; the page, and with underscores the code
	status int
	title  string
	when   string // for the page: when it happens
	again  string // for the page: whether to try again
}

func (t problemType) code() string { return strings.ReplaceAll(t.name, "-", "_") }

// The registry: INTERFACES.md section 4, and 414, which HTTP has and the list there has not.
var (
	malformedRequest = problemType{"malformed-request", 400, "The request cannot be read",
		"The body is not JSON, or not of the documented shape: a wrong type, an unknown or repeated field, text after the end, bytes that are not UTF-8. `errors` names the places.", "No: the request has to change."}
	invalidParameter = problemType{"invalid-parameter", 400, "A parameter is invalid",
		"A query parameter, a part of the address or a header is malformed, unknown or repeated. `parameter` names it.", "No."}
	cursorInvalid = problemType{"cursor-invalid", 400, "The cursor is invalid",
		"The cursor is damaged, belongs to another filter or caller, or is ahead of the log.", "No: begin without a cursor."}
	unauthorized = problemType{"unauthorized", 401, "Who are you?",
		"No credential where one is needed, or one that is not valid.", "With a valid credential."}
	forbidden = problemType{"forbidden", 403, "Not allowed",
		"The credential is valid and lacks a scope. `required_scope` names it.", "No."}
	crossOrigin = problemType{"cross-origin", 403, "Refused from a foreign origin",
		"A browser sent a write or opened a socket on behalf of another site.", "No."}
	notFound = problemType{"not-found", 404, "Not found",
		"It is not there, or not for this caller.", "No."}
	methodNotAllowed = problemType{"method-not-allowed", 405, "Method not allowed",
		"The address exists and does not take this method. The header Allow lists those that it takes.", "No."}
	notAcceptable = problemType{"not-acceptable", 406, "Not acceptable",
		"The header Accept names no representation that exists.", "No."}
	invalidTransition = problemType{"invalid-transition", 409, "The job's status forbids it",
		"The action is not possible in the job's present status. `job_status` and `allowed_actions` say what is. Or a bulk operation has ended: `operation_status`.", "No."}
	leaseLost = problemType{"lease-lost", 409, "The lease is lost",
		"The fence is not the current one: the attempt has ended, or another worker has the job. Nothing was changed.", "No: stop working on the job."}
	idempotencyInFlight = problemType{"idempotency-in-flight", 409, "The first request is still in flight",
		"A request with the same idempotency key has not ended yet.", "Yes, after Retry-After."}
	duplicateJob = problemType{"duplicate-job", 409, "Such a job exists",
		"A job holds the same unique key, and the conflict rule is reject. `job_id` names it.", "No."}
	epochChanged = problemType{"epoch-changed", 409, "History has changed",
		"The cursor belongs to a history that was lost or restored. `epoch` is the present one.", "After a new snapshot."}
	countChanged = problemType{"count-changed", 409, "More jobs match than expected",
		"A bulk operation matches more jobs than its dry run. `matched` says how many.", "After a new dry run."}
	consumerBusy = problemType{"consumer-busy", 409, "Another reader holds the consumer",
		"One reader at a time. `reader` and `free_in` say who and how long.", "Later."}
	queueNotEmpty = problemType{"queue-not-empty", 409, "The queue is not empty",
		"Only an empty queue can be deleted. `count` says what is left.", "No."}
	resultUnavailable = problemType{"result-unavailable", 409, "There will be no result",
		"The job ended without completing. `job_status` says how.", "No."}
	workflowEnded = problemType{"workflow-ended", 409, "The workflow has ended",
		"It is too late to add jobs.", "No."}
	batchClosed = problemType{"batch-closed", 409, "The batch is closed",
		"It is too late to join.", "No."}
	cursorExpired = problemType{"cursor-expired", 410, "The cursor has expired",
		"The events after it are no longer kept. `floor` is the oldest cursor that works.", "After a new snapshot."}
	versionConflict = problemType{"version-conflict", 412, "Somebody was faster",
		"If-Match names a version that is not the present one. `version` is.", "After a GET."}
	payloadTooLarge = problemType{"payload-too-large", 413, "Too large",
		"The body, a payload or a result exceeds its limit. `limit` is in bytes.", "No."}
	uriTooLong = problemType{"uri-too-long", 414, "The address is too long",
		"An address may have 8 KiB.", "No."}
	unsupportedMediaType = problemType{"unsupported-media-type", 415, "Only JSON",
		"A body is application/json in UTF-8, without a Content-Encoding.", "No."}
	hostNotAllowed = problemType{"host-not-allowed", 421, "Not this host",
		"The header Host names a host that this server does not answer for. MINIASYNQ_ALLOWED_HOSTS adds names.", "No."}
	validationFailed = problemType{"validation-failed", 422, "A value is refused",
		"The request is well-formed, and a value is out of range, too long or not storable. `errors` names the fields. Nothing was stored.", "No."}
	idempotencyReused = problemType{"idempotency-reused", 422, "The key belongs to another request",
		"The idempotency key was used for a request with another body.", "No: use a new key."}
	queryTooBroad = problemType{"query-too-broad", 422, "The query is too broad",
		"A query over jobs ends after 3 seconds. `hint` says how to narrow it.", "With a narrower filter."}
	upgradeRequired = problemType{"upgrade-required", 426, "This is a socket",
		"The address speaks WebSocket only.", "With an upgrade."}
	preconditionRequired = problemType{"precondition-required", 428, "If-Match is required",
		"An edit states the version it is based on.", "After a GET."}
	tooManyStreams = problemType{"too-many-streams", 429, "Too many open streams",
		"The limit of sockets, streams or parked calls is reached.", "Yes, after Retry-After; or poll."}
	rateLimited = problemType{"rate-limited", 429, "Too fast",
		"Too many calls, or too many failed sign-ins from this address.", "Yes, after Retry-After."}
	queueFull = problemType{"queue-full", 429, "The queue is full",
		"The queue is bounded, and its bound is reached.", "Yes, after Retry-After."}
	internal = problemType{"internal", 500, "A fault of the server",
		"A bug. No input should be able to cause it.", "With an idempotency key. Please report the request id."}
	commitUnknown = problemType{"commit-unknown", 503, "It may have happened",
		"The connection to the database was lost during the commit.", "Yes, with the same idempotency key."}
	unavailable = problemType{"unavailable", 503, "Unavailable",
		"The database is away, read-only or full, or all connections are in use.", "Yes, after Retry-After."}
	draining = problemType{"draining", 503, "The node shuts down",
		"This node takes no new work.", "Yes, at another node."}
)

// problemTypes lists the registry in the order of its pages.
func problemTypes() []problemType {
	return []problemType{
		malformedRequest, invalidParameter, cursorInvalid, unauthorized, forbidden, crossOrigin, notFound,
		methodNotAllowed, notAcceptable, invalidTransition, leaseLost, idempotencyInFlight, duplicateJob, epochChanged,
		countChanged, consumerBusy, queueNotEmpty, resultUnavailable, workflowEnded, batchClosed, cursorExpired,
		versionConflict, payloadTooLarge, uriTooLong, unsupportedMediaType, hostNotAllowed, validationFailed,
		idempotencyReused, queryTooBroad, upgradeRequired, preconditionRequired, tooManyStreams, rateLimited, queueFull,
		internal, commitUnknown, unavailable, draining,
	}
}

// ProblemNames lists the registered problems, for the documentation's tests.
func ProblemNames() []string {
	types := problemTypes()
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.name
	}
	return names
}

func problemNamed(name string) (problemType, bool) {
	types := problemTypes()
	i := slices.IndexFunc(types, func(t problemType) bool { return t.name == name })
	if i < 0 {
		return problemType{}, false
	}
	return types[i], true
}

// problemPage needs nothing from elsewhere: the policy below allows its own style and no more.
var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Name}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}code{font-size:1.1em}</style>
<h1>{{.Title}}</h1>
<p><code>{{.Name}}</code>, status {{.Status}}, code <code>{{.Code}}</code></p>
<h2>When</h2><p>{{.When}}</p>
<h2>Try again?</h2><p>{{.Again}}</p>
</html>
`))

func (s *Server) problemPage(c *gin.Context) error {
	t, ok := problemNamed(c.Param("name"))
	if !ok {
		return refuse(notFound, "there is no such problem")
	}
	header := c.Writer.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	header.Set("Cache-Control", "max-age=3600")
	c.Status(http.StatusOK)
	return problemPage.Execute(c.Writer, struct {
		Name, Title, Code, When, Again string
		Status                         int
	}{t.name, t.title, t.code(), t.when, t.again, t.status})
}
