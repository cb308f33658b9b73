package jobs

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Get returns a job with payload and result, live or finished, or ErrNotFound.
func Get(ctx context.Context, db DB, id uuid.UUID) (*Job, error) {
	job, err := get(ctx, db, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("get job: %w", err)
	}
	return job, err
}

func get(ctx context.Context, db DB, id uuid.UUID) (*Job, error) {
	// The live one first: most that is asked for is young, and it is one probe.
	job, err := scanJob(db.QueryRow(ctx, `SELECT `+columns+`, NULL::timestamptz, payload, NULL::jsonb, cloned_from
		FROM mini_asynq.jobs WHERE id = $1`, id))
	if !errors.Is(err, pgx.ErrNoRows) {
		return job, err
	}
	// A job may finish between the two statements, and be redriven: the view reads both tables in one snapshot.
	job, err = scanJob(db.QueryRow(ctx, `SELECT `+columns+`, finished_at, payload, result, cloned_from
		FROM mini_asynq.all_jobs WHERE id = $1`, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	return job, err
}

// GetMany returns jobs without payload and result, by id; those that do not exist are missing. Duplicates do no harm.
// Indexes jobs_pkey and jobs_finished_id.
func GetMany(ctx context.Context, db DB, ids []uuid.UUID) (map[uuid.UUID]*Job, error) {
	rows, err := db.Query(ctx, `SELECT `+columns+`, finished_at, NULL::jsonb, NULL::jsonb, cloned_from
		FROM mini_asynq.all_jobs WHERE id = ANY ($1::uuid[])`, idArray(ids))
	if err != nil {
		return nil, fmt.Errorf("get jobs: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) { return scanJob(row) })
	if err != nil {
		return nil, fmt.Errorf("get jobs: %w", err)
	}
	byID := make(map[uuid.UUID]*Job, len(found))
	for _, j := range found {
		byID[j.ID] = j
	}
	return byID, nil
}

// Attempts returns the attempts of a job from number after+1 on, oldest first, at most limit; a running one comes last.
// No job and no attempts look the same.
func Attempts(ctx context.Context, db DB, id uuid.UUID, after, limit int) ([]Attempt, error) {
	rows, err := db.Query(ctx, `
		SELECT attempt_number, status::text, started_at, completed_at, fence, worker, wait_ms,
		       coalesce(error_type, ''), coalesce(error_message, ''), coalesce(error_stack, '')
		  FROM mini_asynq.job_attempts WHERE job_id = $1 AND attempt_number > $2
		 UNION ALL
		SELECT attempt, 'running', locked_at, NULL, fence, locked_by,
		       mini_asynq.ms_between(run_at, locked_at), '', '', ''
		  FROM mini_asynq.jobs WHERE id = $1 AND status = 'running' AND attempt > $2
		 ORDER BY 1 LIMIT $3`, id, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Attempt, error) {
		var a Attempt
		var completed *time.Time
		var waitMS int64
		err := row.Scan(&a.Number, &a.Status, &a.StartedAt, &completed, &a.Fence, &a.Worker, &waitMS, &a.ErrorType,
			&a.ErrorMessage, &a.ErrorStack)
		a.CompletedAt, a.Wait = orZero(completed), time.Duration(waitMS)*time.Millisecond
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	return attempts, nil
}

// Filter selects jobs. Fields are ANDed, the values of one are ORed; an empty field selects all. Names of queues and
// kinds may end in *. As JSON it is stored with bulk operations: its names are those of the parameters of GET /jobs.
type Filter struct {
	Within         []string          `json:"within,omitempty"` // only jobs of these queues exist; nil: of all
	Statuses       []Status          `json:"status,omitempty"`
	Queues         []string          `json:"queue,omitempty"`
	Kinds          []string          `json:"kind,omitempty"`
	Priorities     []Priority        `json:"priority,omitempty"`
	Tags           []string          `json:"tag,omitempty"`
	Workers        []string          `json:"worker,omitempty"`
	IDs            []uuid.UUID       `json:"id,omitempty"`
	Fingerprints   []string          `json:"fingerprint,omitempty"`
	AttemptMin     int               `json:"attempt_min,omitempty"`
	CreatedAfter   time.Time         `json:"created_after,omitzero"`
	CreatedBefore  time.Time         `json:"created_before,omitzero"`
	RunAfter       time.Time         `json:"run_after,omitzero"`
	RunBefore      time.Time         `json:"run_before,omitzero"`
	FinishedAfter  time.Time         `json:"finished_after,omitzero"`
	FinishedBefore time.Time         `json:"finished_before,omitzero"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Payload        json.RawMessage   `json:"payload,omitempty"` // the payload contains this value
}

// Sort is the order of a list; ties go by id in the same direction.
type Sort string

// The orders that lists know. Newest first goes by id: ids are UUIDv7, so they follow the order of creation, and the
// indexes by id serve it.
const (
	ByCreated      Sort = "created_at"
	ByCreatedDesc  Sort = "-created_at"
	ByRunAt        Sort = "run_at"
	ByRunAtDesc    Sort = "-run_at"
	ByFinished     Sort = "finished_at"
	ByFinishedDesc Sort = "-finished_at"
)

// Valid tells whether s is one of the orders.
func (s Sort) Valid() bool {
	switch s {
	case ByCreated, ByCreatedDesc, ByRunAt, ByRunAtDesc, ByFinished, ByFinishedDesc:
		return true
	}
	return false
}

// Page asks for one page of a list.
type Page struct {
	Sort    Sort   // "" is ByCreatedDesc
	Limit   int    // 1..500
	Cursor  string // of the page before; "" is the first page
	Payload bool   // read payloads
	Result  bool   // read results
}

// listTimeout bounds a query over jobs.
const listTimeout = 3 * time.Second

// List returns a page of jobs and the cursor of the next one, "" if there is none. ErrCursor; ErrTooBroad when the query
// takes more than 3 s. The SQL is put together from constants; every value is a parameter.
func List(ctx context.Context, db DB, f Filter, p Page) (page []*Job, next string, err error) {
	if p.Sort == "" {
		p.Sort = ByCreatedDesc
	}
	q := newListQuery(f)
	order, direction, compare := sortSQL(p.Sort)
	if p.Cursor != "" {
		at, id, err := decodeCursor(p.Cursor, f, p.Sort)
		if err != nil {
			return nil, "", err
		}
		if order == "id" {
			q.where("id "+compare+" %s", id)
		} else {
			q.where("("+order+", id) "+compare+" (%s, %s)", at, id)
		}
	}
	if order == "finished_at" {
		q.where("finished_at IS NOT NULL")
	}
	by := order + direction
	if order != "id" {
		by += ", id" + direction
	}
	payload, result := "NULL::jsonb", "NULL::jsonb"
	if p.Payload {
		payload = "payload"
	}
	if p.Result {
		result = "result"
	}
	q.args = append(q.args, p.Limit+1)
	sql := `SELECT ` + columns + `, finished_at, ` + payload + `, ` + result + `, cloned_from FROM mini_asynq.all_jobs` + q.clause() +
		` ORDER BY ` + by + ` LIMIT $` + strconv.Itoa(len(q.args))

	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := db.Query(ctx, sql, q.args...)
	if err == nil {
		page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) { return scanJob(row) })
	}
	if err != nil {
		return nil, "", listError("list jobs", err)
	}
	if len(page) > p.Limit {
		page = page[:p.Limit]
		next = encodeCursor(page[p.Limit-1], f, p.Sort)
	}
	return page, next, nil
}

// MaxCount is where Count stops counting.
const MaxCount = 10_000

// Count counts jobs up to MaxCount; capped says that there are more. ErrTooBroad as for List.
func Count(ctx context.Context, db DB, f Filter) (n int, capped bool, err error) {
	q := newListQuery(f)
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	err = db.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM mini_asynq.all_jobs`+q.clause()+
		` LIMIT `+strconv.Itoa(MaxCount+1)+`) found`, q.args...).Scan(&n)
	if err != nil {
		return 0, false, listError("count jobs", err)
	}
	return min(n, MaxCount), n > MaxCount, nil
}

// listError tells a query that took too long from one that never began, because no connection was free or could be made:
// only the first is for the caller to mend.
func listError(what string, err error) error {
	var connect *pgconn.ConnectError
	if sqlState(err) == stateQueryCancelled || pgconn.Timeout(err) && !errors.As(err, &connect) {
		return ErrTooBroad
	}
	return fmt.Errorf("%s: %w", what, err)
}

// sortSQL maps an order to constants.
func sortSQL(s Sort) (column, direction, compare string) {
	column, direction, compare = "id", "", ">"
	if strings.HasPrefix(string(s), "-") {
		direction, compare = " DESC", "<"
	}
	switch s {
	case ByRunAt, ByRunAtDesc:
		column = "run_at"
	case ByFinished, ByFinishedDesc:
		column = "finished_at"
	}
	return column, direction, compare
}

// listQuery collects conditions and their parameters.
type listQuery struct {
	conditions []string
	args       []any
}

// where adds a condition; each %s in it becomes a parameter.
func (q *listQuery) where(condition string, args ...any) {
	places := make([]any, len(args))
	for i, arg := range args {
		q.args = append(q.args, arg)
		places[i] = "$" + strconv.Itoa(len(q.args))
	}
	q.conditions = append(q.conditions, fmt.Sprintf(condition, places...))
}

func (q *listQuery) clause() string {
	if len(q.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(q.conditions, " AND ")
}

func newListQuery(f Filter) *listQuery {
	q := &listQuery{}
	if f.Within != nil {
		q.where("queue = ANY (%s::text[])", f.Within)
	}
	if len(f.Statuses) > 0 {
		q.where("status = ANY (%s::text[]::mini_asynq.job_status[])", texts(f.Statuses))
	}
	if len(f.Priorities) > 0 {
		q.where("priority = ANY (%s::text[]::mini_asynq.job_priority[])", texts(f.Priorities))
	}
	q.names("queue", f.Queues)
	q.names("kind", f.Kinds)
	if len(f.Tags) > 0 {
		q.where("tags && %s::text[]", f.Tags)
	}
	if len(f.Workers) > 0 {
		q.where("coalesce(locked_by, last_worker) = ANY (%s::text[])", f.Workers)
	}
	if len(f.IDs) > 0 {
		q.where("id = ANY (%s::uuid[])", f.IDs)
	}
	if len(f.Fingerprints) > 0 {
		q.where("error->>'fingerprint' = ANY (%s::text[])", f.Fingerprints)
	}
	if f.AttemptMin > 0 {
		q.where("attempt >= %s", f.AttemptMin)
	}
	q.times("created_at", f.CreatedAfter, f.CreatedBefore)
	q.times("run_at", f.RunAfter, f.RunBefore)
	q.times("finished_at", f.FinishedAfter, f.FinishedBefore)
	if len(f.Metadata) > 0 {
		q.where("metadata @> %s::jsonb", f.Metadata)
	}
	if len(f.Payload) > 0 {
		q.where("payload @> %s::jsonb", f.Payload)
	}
	return q
}

// names adds a filter on names, of which some may end in *.
func (q *listQuery) names(column string, names []string) {
	var exact, patterns []string
	for _, name := range names {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			patterns = append(patterns, likeEscape(prefix)+"%")
		} else {
			exact = append(exact, name)
		}
	}
	switch {
	case len(names) == 0:
	case len(patterns) == 0:
		q.where(column+" = ANY (%s::text[])", exact)
	case len(exact) == 0:
		q.where(column+" LIKE ANY (%s::text[])", patterns)
	default:
		q.where("("+column+" = ANY (%s::text[]) OR "+column+" LIKE ANY (%s::text[]))", exact, patterns)
	}
}

func (q *listQuery) times(column string, after, before time.Time) {
	if !after.IsZero() {
		q.where(column+" > %s", after)
	}
	if !before.IsZero() {
		q.where(column+" < %s", before)
	}
}

func likeEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

func texts[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// cursorMark is what a page cursor holds: the last row's key, bound to the query it belongs to.
type cursorMark struct {
	Query string    `json:"q"`
	At    time.Time `json:"t,omitzero"`
	ID    uuid.UUID `json:"i"`
}

func encodeCursor(last *Job, f Filter, s Sort) string {
	mark := cursorMark{Query: queryMark(f, s), ID: last.ID}
	switch s {
	case ByRunAt, ByRunAtDesc:
		mark.At = last.RunAt
	case ByFinished, ByFinishedDesc:
		mark.At = last.FinishedAt
	}
	raw, err := json.Marshal(mark)
	if err != nil {
		panic(err) // strings, a time and an id
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func decodeCursor(cursor string, f Filter, s Sort) (time.Time, uuid.UUID, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	var mark cursorMark
	if err != nil || json.Unmarshal(raw, &mark) != nil || mark.Query != queryMark(f, s) {
		return time.Time{}, uuid.Nil, ErrCursor
	}
	return mark.At, mark.ID, nil
}

// queryMark identifies a filter and an order.
func queryMark(f Filter, s Sort) string {
	raw, err := json.Marshal(f)
	if err != nil {
		return "" // a payload filter that is no JSON: the query itself will say so
	}
	sum := sha256.Sum256(append(raw, s...))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
