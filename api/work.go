package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Limits of a claim and of a heartbeat.
const (
	maxClaim  = 100
	maxLeases = 1000
	// A claim needs a moment even when jobs are there; one that does not want to wait gets that.
	minClaimWait = 250 * time.Millisecond
)

// commandBody tells a worker what to do.
type commandBody struct {
	Type   string `json:"type"` // cancel, quiet, drain
	JobID  text   `json:"job_id,omitempty"`
	Fence  int64  `json:"fence,omitempty"`
	Reason text   `json:"reason,omitempty"`
}

func commandsOf(w jobs.Worker) []commandBody {
	if w.Asked == "" {
		return []commandBody{}
	}
	return []commandBody{{Type: string(w.Asked)}}
}

// claimedBody is a job as its worker gets it.
type claimedBody struct {
	ID             uuid.UUID       `json:"id"`
	Queue          string          `json:"queue"`
	Kind           string          `json:"kind"`
	Payload        json.RawMessage `json:"payload"`
	Priority       jobs.Priority   `json:"priority"`
	Status         jobs.Status     `json:"status"`
	MaxRetries     int             `json:"max_retries"`
	Attempt        int             `json:"attempt"`
	AttemptsLeft   int             `json:"attempts_left"`
	Snoozes        int             `json:"snoozes"`
	RunAt          stamp           `json:"run_at"`
	Timeout        span            `json:"timeout"`
	Tags           []string        `json:"tags"`
	Metadata       json.RawMessage `json:"metadata"`
	Traceparent    text            `json:"traceparent"`
	Version        int64           `json:"version"`
	CreatedAt      stamp           `json:"created_at"`
	LockedAt       stamp           `json:"locked_at"`
	LockedBy       string          `json:"locked_by"`
	Fence          int64           `json:"fence"`
	LeaseRemaining string          `json:"lease_remaining"`
}

func claimedOf(j *jobs.Claimed, timeout time.Duration, now time.Time) claimedBody {
	b := claimedBody{
		ID: j.ID, Queue: j.Queue, Kind: j.Kind, Payload: j.Payload, Priority: j.Priority, Status: jobs.Running,
		MaxRetries: j.MaxRetries, Attempt: j.Attempt, AttemptsLeft: j.AttemptsLeft(), Snoozes: j.Snoozes, RunAt: stamp(j.RunAt),
		Timeout: span(j.Timeout), Tags: emptyNotNull(j.Tags), Metadata: j.Metadata, Traceparent: text(j.Traceparent),
		Version: j.Version, CreatedAt: stamp(j.CreatedAt), LockedAt: stamp(j.LockedAt), LockedBy: j.LockedBy, Fence: j.Fence,
		LeaseRemaining: remaining(j.LeaseFor - now.Sub(j.ClaimedAt)),
	}
	if b.Timeout == 0 {
		b.Timeout = span(timeout) // what counts
	}
	if len(b.Metadata) == 0 || string(b.Metadata) == "null" {
		b.Metadata = json.RawMessage(`{}`)
	}
	return b
}

func remaining(d time.Duration) string { return formatDuration(max(d, 0).Truncate(time.Millisecond)) }

type claimAnswer struct {
	Jobs     []claimedBody `json:"jobs"`
	Commands []commandBody `json:"commands"`
}

type claimRequest struct {
	wanted
	most int
	wait time.Duration
}

func decodeClaim(raw []byte) (r claimRequest, err error) {
	if raw == nil {
		return r, nil
	}
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "max":
			if !v.isNull() {
				r.most = ranged(v, 1, maxClaim)
			}
		case "wait":
			if d, ok := spanOf(v); ok {
				if r.wait = d; d < 0 || d > maxWait {
					v.refuse("out_of_range", "0 to "+formatDuration(maxWait))
				}
			}
		default:
			return r.member(key, v)
		}
		return true
	})
	return r, err
}

// claimJobs hands out jobs, and waits for them if there are none. What its caller has left before the answer was written is
// given back.
func (s *Server) claimJobs(c *gin.Context) error {
	id, err := s.workerID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readOptionalBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	r, err := decodeClaim(raw)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	k, w, ok := s.presence.heard(id)
	if !ok {
		if k, w, err = s.readWorker(ctx, id); err != nil {
			return err
		}
	}
	answer := claimAnswer{Jobs: []claimedBody{}, Commands: commandsOf(w)}
	if w.Asked != "" {
		return reply(c, http.StatusOK, answer)
	}
	if s.presence.parkedCalls() >= maxParked {
		return refuse(tooManyStreams, "too many calls wait at this node")
	}
	want := dispatcher.Want{Queues: w.Queues, Kinds: w.Kinds, Worker: w.Name, Remote: w.ID}
	if r.queues != nil {
		if want.Queues, err = callOf(c).principal.ownQueues(r.queues); err != nil {
			return err
		}
	}
	if r.kinds != nil {
		want.Kinds = r.kinds
	}
	if r.most == 0 {
		r.most = min(w.Slots, maxClaim)
	}
	works := s.poll(ctx, k, want, r)
	for _, work := range works {
		if work.Job.LeaseFor < s.config.Work.Lease() {
			s.config.Work.LeaseDueIn(work.Job.LeaseFor) // nobody else knows that it is shorter
		}
	}
	switch {
	case ctx.Err() != nil:
		dispatcher.GiveBack(works)
		return ctx.Err()
	case !s.presence.knows(id, k):
		dispatcher.GiveBack(works) // it was removed while it waited
		return jobs.ErrNotFound
	}
	now := time.Now()
	for _, work := range works {
		answer.Jobs = append(answer.Jobs, claimedOf(work.Job, s.config.Timeout, now))
	}
	if len(works) == 0 {
		answer.Commands = commandsOf(s.presence.now(id, w)) // what it was asked while it waited
	}
	body, err := json.Marshal(answer)
	if err != nil {
		dispatcher.GiveBack(works)
		return err
	}
	c.Writer.Header()["Content-Type"] = headerJSON
	c.Status(http.StatusOK)
	if _, err = c.Writer.Write(body); err == nil {
		err = http.NewResponseController(c.Writer).Flush()
	}
	if err != nil {
		dispatcher.GiveBack(works)
	}
	return nil
}

// readWorker reads a registration that this node does not know, or has not looked at for long.
func (s *Server) readWorker(ctx context.Context, id uuid.UUID) (*knownWorker, jobs.Worker, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	w, err := jobs.GetWorker(ctx, s.config.DB, id)
	if err != nil {
		return nil, w, err
	}
	return s.presence.learn(w), w, nil
}

// poll parks a claim until jobs come, its wait is over, the caller leaves, or the node or an operator wants it to answer.
func (s *Server) poll(ctx context.Context, k *knownWorker, want dispatcher.Want, r claimRequest) []*dispatcher.Work {
	leave, gone, ok := s.presence.park(k)
	if !ok {
		return nil
	}
	defer gone()
	ctx, cancel := context.WithTimeout(ctx, max(r.wait, minClaimWait))
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	// Ends with the call.
	go func() {
		select {
		case <-leave:
		case <-s.draining:
		case <-done:
		}
		cancel()
	}()
	return s.config.Work.Poll(ctx, want, r.most)
}

type heartbeat struct {
	leases   []jobs.Lease
	progress []*progressStated // of each lease; nil: none
	busy     int
}

type progressStated struct {
	percent float64
	message string
}

func decodeHeartbeat(raw []byte) (h heartbeat, err error) {
	given := false
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "busy":
			h.busy = ranged(v, 0, maxSlots)
		case "leases":
			given = true
			v.array(func(n int, item value) bool {
				if n == maxLeases {
					v.refuse("too_many", "at most "+strconv.Itoa(maxLeases))
					return false
				}
				var l leaseStated
				var told *progressStated
				item.object(func(key string, v value) bool {
					if key == "progress" {
						told = leniently(v)
						return true
					}
					return l.member(key, v)
				})
				l.require(item)
				h.leases = append(h.leases, jobs.Lease{JobID: l.job, Fence: l.fence})
				h.progress = append(h.progress, told)
				return true
			})
		default:
			return false
		}
		return true
	})
	if err == nil && !given {
		err = refusedFields([]fieldError{{"/leases", "missing", "all leases that the worker holds; [] for none"}})
	}
	return h, err
}

// leaseStated is a job and the fence of a claim.
type leaseStated struct {
	job   uuid.UUID
	fence int64
}

func (l *leaseStated) member(key string, v value) bool {
	switch key {
	case "job_id":
		if s, ok := v.text(); ok {
			id, valid := parseID(s)
			if l.job = id; !valid {
				v.refuse("invalid_value", "a UUID")
			}
		}
	case "fence":
		l.fence = fenceOf(v)
	default:
		return false
	}
	return true
}

func (l *leaseStated) require(v value) {
	if l.job == uuid.Nil || l.fence == 0 {
		v.refuse("missing", "job_id and fence, as the claim gave them")
	}
}

func fenceOf(v value) int64 {
	n, ok := v.integer()
	if ok && n < 1 {
		v.refuse("out_of_range", "the fence of a claim")
	}
	return int64(n)
}

// leniently reads progress inside a heartbeat: what cannot be read or stored of it is left out or cut, because a refusal would
// take all leases with it.
func leniently(v value) *progressStated {
	var stated struct{ Percent, Message json.RawMessage }
	if v.isNull() || json.Unmarshal(v.raw, &stated) != nil {
		return nil
	}
	var p progressStated
	p.percent, _ = strconv.ParseFloat(string(stated.Percent), 64) // 0 if it is none; the domain keeps it within 0 to 100
	_ = json.Unmarshal(stated.Message, &p.message)                // "" if it is none; the domain cleans and cuts it
	return &p
}

func (p *progressStated) member(key string, v value) bool {
	switch key {
	case "percent":
		if v.isNull() {
			break
		}
		n, err := strconv.ParseFloat(string(v.raw), 64)
		switch {
		case v.raw[0] != '-' && (v.raw[0] < '0' || v.raw[0] > '9'):
			v.wrongType("a number")
		case err != nil || n < 0 || n > 100:
			v.refuse("out_of_range", "0 to 100")
		}
		p.percent = n
	case "message":
		if s, ok := v.text(); ok {
			if p.message = s; len(s) > jobs.MaxProgressText {
				v.refuse("too_long", "at most "+strconv.Itoa(jobs.MaxProgressText)+" bytes")
			}
		}
	default:
		return false
	}
	return true
}

// ownLeases returns the leases as the caller may hold them: those of jobs that do not exist for him have no fence, and so are
// lost.
func (s *Server) ownLeases(ctx context.Context, p Principal, stated []jobs.Lease) ([]jobs.Lease, error) {
	ids := make([]uuid.UUID, len(stated))
	for i, l := range stated {
		ids[i] = l.JobID
	}
	foreign, err := s.foreign(ctx, p, ids)
	if err != nil || len(foreign) == 0 {
		return stated, err
	}
	own := slices.Clone(stated)
	for i := range own {
		if foreign[own[i].JobID] {
			own[i].Fence = 0
		}
	}
	return own, nil
}

type heldBody struct {
	JobID     uuid.UUID `json:"job_id"`
	Fence     int64     `json:"fence"`
	Remaining text      `json:"remaining,omitempty"`
	Lost      bool      `json:"lost,omitempty"`
}

// young: a lease is left out only when it is older than this part of one; the answer to its claim may be on its way.
const young = 6

// progressRest is how long one job's progress waits for the next.
const progressRest = time.Second

// beat extends all leases of a worker in one statement, and tells it what it was asked.
func (s *Server) beat(c *gin.Context) error {
	return withName(s, c, s.workerID, func(ctx context.Context, id uuid.UUID) error {
		raw, err := readBody(c, maxBatch)
		if err != nil {
			return err
		}
		h, err := decodeHeartbeat(raw)
		if err != nil {
			return err
		}
		held, err := s.ownLeases(ctx, callOf(c).principal, h.leases)
		if err != nil {
			return err
		}
		w, err := jobs.Heartbeat(ctx, s.config.DB, id, held, h.busy, s.config.Work.Lease()/young)
		if err != nil {
			return err
		}
		s.presence.learn(w)
		extended, err := jobs.Extend(ctx, s.config.DB, held, s.config.Work.Lease(), s.config.Timeout)
		if err != nil {
			return err
		}
		answer := struct {
			Leases   []heldBody    `json:"leases"`
			Commands []commandBody `json:"commands"`
		}{make([]heldBody, len(h.leases)), commandsOf(w)}
		for i, l := range h.leases {
			e := extended[i]
			answer.Leases[i] = heldBody{JobID: l.JobID, Fence: l.Fence}
			switch {
			case e.Busy:
				// Somebody has the row locked at this moment: nothing was moved, and nothing is lost. Neither is said, and
				// nothing is written that would wait for the lock.
				continue
			case !e.Held || e.Remaining <= 0:
				answer.Leases[i].Lost = true
				continue
			default:
				answer.Leases[i].Remaining = text(remaining(e.Remaining))
				if e.Remaining < s.config.Work.Lease() {
					s.config.Work.LeaseDueIn(e.Remaining) // nobody else knows that it is shorter
				}
			}
			if e.CancelRequested {
				answer.Commands = append(answer.Commands, commandBody{Type: "cancel", JobID: text(l.JobID.String()), Fence: l.Fence, Reason: "operator"})
			}
			if p := h.progress[i]; p != nil {
				if err := jobs.SetProgress(ctx, s.config.DB, l, p.percent, p.message, progressRest); err != nil && !isLost(err) {
					// The leases were moved: that has to be told, whatever becomes of this.
					s.config.Log.Warn().Err(err).Stringer("job_id", l.JobID).Msg("progress could not be stored")
				}
			}
		}
		return reply(c, http.StatusOK, answer)
	})
}
