package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// register makes a worker and returns its address.
func (d *door) register(body string) string {
	d.t.Helper()
	a := d.post("/workers", body)
	a.is(http.StatusCreated)
	return "/workers/" + a.text("id")
}

// claimedJob is a job in the answer to a claim.
type claimedJob struct {
	ID, Queue, Kind string
	Payload         json.RawMessage
	Fence           int64
	Attempt         int
	AttemptsLeft    int    `json:"attempts_left"`
	LeaseRemaining  string `json:"lease_remaining"`
}

func (d *door) claimFor(worker, body string) []claimedJob {
	d.t.Helper()
	var answer struct{ Jobs []claimedJob }
	require.NoError(d.t, json.Unmarshal(d.post(worker+"/claim", body).is(http.StatusOK).raw, &answer))
	return answer.Jobs
}

func fenced(fence int64, more string) string { return fmt.Sprintf(`{"fence":%d%s}`, fence, more) }

func TestRemoteWorkerTakesAJobTheWholeWay(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","queues":{"mail":3,"*":1},"slots":4,"version":"1.2","labels":{"zone":"a"}}`)
	reg := d.get(worker).is(http.StatusOK).object()
	require.Equal(t, "online", reg["state"])
	require.Equal(t, map[string]any{"zone": "a"}, reg["labels"])
	require.NotContains(t, reg, "lease", "that is for the answer to a registration")

	id := d.enqueue(`{"queue":"mail","kind":"email.send","payload":{"to":"a"},"max_retries":2}`)
	got := d.claimFor(worker, `{"max":4,"wait":"20s"}`)
	require.Len(t, got, 1)
	require.Equal(t, id, got[0].ID)
	require.Equal(t, "email.send", got[0].Kind)
	require.JSONEq(t, `{"to":"a"}`, string(got[0].Payload))
	require.Equal(t, 1, got[0].Attempt)
	require.Equal(t, 2, got[0].AttemptsLeft)
	left, err := time.ParseDuration(got[0].LeaseRemaining)
	require.NoError(t, err)
	require.InDelta(t, testLease, left, float64(5*time.Second))
	require.Equal(t, "w1", d.get("/jobs/" + id).object()["locked_by"])

	d.post("/jobs/"+id+"/progress", fenced(got[0].Fence, `,"percent":50,"message":"half"`)).is(http.StatusNoContent)
	require.Equal(t, "half", d.get("/jobs/" + id).object()["progress"].(map[string]any)["message"])
	done := d.post("/jobs/"+id+"/complete", fenced(got[0].Fence, `,"result":{"sent":true}`)).is(http.StatusOK)
	require.Equal(t, "completed", done.text("status"))
	require.NotContains(t, done.object(), "result", "never in the answer to a write")
	require.JSONEq(t, `{"sent":true}`, string(d.get("/jobs/"+id+"/result").is(http.StatusOK).raw))
	attempts := d.get("/jobs/" + id + "/attempts").data()
	require.Len(t, attempts, 1)
	require.Equal(t, "w1", attempts[0].(map[string]any)["worker"])

	require.Len(t, d.get("/workers").data(), 1)
	d.send(http.MethodDelete, "/api/v1"+worker, "").is(http.StatusNoContent)
	d.post(worker+"/claim", `{"wait":"0s"}`).problem(http.StatusNotFound, "not-found")
	require.Empty(t, d.get("/workers").data())
	var told []string
	pgtest.Eventually(t, 10*time.Second, "its coming and going are events", func() bool {
		rows, err := d.pool.Query(t.Context(), `SELECT type::text || ' ' || worker FROM mini_asynq.events WHERE type::text LIKE 'worker.%' ORDER BY id`)
		require.NoError(t, err)
		told = told[:0]
		for rows.Next() {
			told = append(told, string(rows.RawValues()[0]))
		}
		return len(told) == 2
	})
	require.Equal(t, []string{"worker.online w1", "worker.offline w1"}, told)
}

// TestX1StaleFenceChangesNothing: the row X1 of the bad-input matrix, as those below are theirs.
func TestX1StaleFenceChangesNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","queues":{"*":1},"slots":10}`)
	id := d.enqueue(`{"queue":"x1"}`)
	first := d.claimFor(worker, `{"wait":"20s"}`)[0]
	d.post("/jobs/"+id+"/release", fenced(first.Fence, "")).is(http.StatusOK)
	second := d.claimFor(worker, `{"wait":"20s"}`)[0]
	require.Greater(t, second.Fence, first.Fence)
	require.Equal(t, 1, second.Attempt, "a release gives the attempt back")
	before := d.get("/jobs/" + id).object()
	for _, call := range []string{
		"/complete " + fenced(first.Fence, ""), "/fail " + fenced(first.Fence, `,"error":{"message":"late"}`),
		"/snooze " + fenced(first.Fence, `,"delay":"1m"`), "/release " + fenced(first.Fence, ""),
		"/progress " + fenced(first.Fence, `,"percent":1`), "/complete " + fenced(second.Fence+1000, ""),
	} {
		path, body, _ := strings.Cut(call, " ")
		a := d.post("/jobs/"+id+path, body)
		a.problem(http.StatusConflict, "lease-lost")
		require.Equal(t, id, a.text("job_id"), call)
	}
	require.Equal(t, before, d.get("/jobs/"+id).object())
	beat := fmt.Sprintf(`{"leases":[{"job_id":%q,"fence":%d},{"job_id":%q,"fence":%d}],"busy":1}`, id, first.Fence, id, second.Fence)
	leases := d.post(worker+"/heartbeat", beat).is(http.StatusOK).object()["leases"].([]any)
	require.Equal(t, true, leases[0].(map[string]any)["lost"])
	require.NotContains(t, leases[1].(map[string]any), "lost")
	require.NotEmpty(t, leases[1].(map[string]any)["remaining"])
	d.post("/jobs/"+id+"/complete", fenced(second.Fence, "")).is(http.StatusOK)
	d.post("/jobs/0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e/complete", fenced(1, "")).problem(http.StatusNotFound, "not-found")
}

func TestX2TheSameOutcomeAgainIsTheSameAnswer(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","slots":10}`)
	outcomes := map[string]string{
		"complete": `,"result":1`, "fail": `,"error":{"type":"T","message":"m"}`, "snooze": `,"delay":"1h"`, "release": "",
	}
	status := map[string]string{"complete": "completed", "fail": "retrying", "snooze": "scheduled", "release": "pending"}
	for outcome, more := range outcomes {
		id := d.enqueue(`{"queue":"` + outcome + `"}`)
		job := d.claimFor(worker, `{"max":1,"wait":"20s","queues":{"`+outcome+`":1}}`)[0]
		require.Equal(t, id, job.ID)
		first := d.post("/jobs/"+id+"/"+outcome, fenced(job.Fence, more)).is(http.StatusOK)
		require.Equal(t, status[outcome], first.text("status"))
		again := d.post("/jobs/"+id+"/"+outcome, fenced(job.Fence, more)).is(http.StatusOK)
		require.Equal(t, first.object(), again.object(), outcome)
		for other, more := range outcomes {
			if other != outcome {
				d.post("/jobs/"+id+"/"+other, fenced(job.Fence, more)).problem(http.StatusConflict, "lease-lost")
			}
		}
		require.Equal(t, first.object()["version"], d.get("/jobs/" + id).object()["version"], "what was refused changed nothing")
	}
}

// TestX3BatchOfOutcomesHasAVerdictForEach: the row X3.
func TestX3BatchOfOutcomesHasAVerdictForEach(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","slots":10}`)
	for range 5 {
		d.enqueue(`{"queue":"x3","max_retries":0}`)
	}
	var held []claimedJob
	for len(held) < 5 {
		held = append(held, d.claimFor(worker, `{"max":10,"wait":"20s"}`)...)
	}
	item := func(n int, more string) string {
		return fmt.Sprintf(`{"job_id":%q,"fence":%d%s}`, held[n].ID, held[n].Fence, more)
	}
	body := `{"outcomes":[` + strings.Join([]string{
		item(0, `,"outcome":"complete","result":{"n":0}`),
		fmt.Sprintf(`{"job_id":%q,"fence":%d,"outcome":"complete"}`, held[1].ID, held[1].Fence+999),
		item(2, `,"outcome":"explode"`),
		item(3, `,"outcome":"fail","error":{"type":"E","message":"no\u0000good \ud800"},"retry":"never"`),
		item(4, `,"outcome":"complete","delay":"1s"`),
		`17`, item(0, `,"outcome":"complete"`),
	}, ",") + `]}`
	var answer struct {
		Results []struct {
			JobID   string `json:"job_id"`
			Status  string
			Problem map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(d.post(worker+"/outcomes", body).is(http.StatusOK).raw, &answer))
	got := make([]string, len(answer.Results))
	for i, r := range answer.Results {
		if got[i] = r.Status; r.Problem != nil {
			got[i] = r.Problem["code"].(string)
		}
	}
	require.Equal(t, []string{"completed", "lease_lost", "validation_failed", "dead", "malformed_request", "malformed_request", "completed"}, got)
	require.Equal(t, held[3].ID, answer.Results[3].JobID)
	failure := d.get("/jobs/" + held[3].ID).object()["error"].(map[string]any)
	require.Equal(t, "no\uFFFDgood \uFFFD", failure["message"], "cleaned, never refused")
	require.Equal(t, "running", d.get("/jobs/"+held[4].ID).text("status"))
	only := d.post(worker+"/outcomes", `{"outcomes":[17,{}]}`).is(http.StatusOK).object()["results"].([]any)
	require.Len(t, only, 2, "nothing is left to store")
}

// TestX4AnyTextOfAnErrorIsTaken: the row X4.
func TestX4AnyTextOfAnErrorIsTaken(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","slots":10}`)
	for name, message := range map[string]string{
		"NUL": `a\u0000b`, "half a surrogate": `\ud800`, "bad UTF-8": "a\xffb", "ANSI": `\u001b[31mred`, "markup": `<script>alert(1)</script>`,
		"400 KiB": strings.Repeat("x", 400<<10),
	} {
		id := d.enqueue(`{"queue":"x4"}`)
		job := d.claimFor(worker, `{"max":1,"wait":"20s"}`)[0]
		a := d.post("/jobs/"+id+"/fail", fenced(job.Fence, `,"error":{"type":"T","message":"`+message+`","stack":"`+message+`"},"retry":"never"`))
		require.Equal(t, "dead", a.is(http.StatusOK).text("status"), name)
		require.LessOrEqual(t, len(a.object()["error"].(map[string]any)["message"].(string)), 8<<10, name)
	}
}

// TestFenceOfAnotherJobIsNobodysFence: also beside the one that it is of, in one batch.
func TestFenceOfAnotherJobIsNobodysFence(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1"}`)
	id := d.enqueue(`{"queue":"mine"}`)
	job := d.claimFor(worker, `{"wait":"20s"}`)[0]
	other := d.enqueue(`{"queue":"other"}`)
	for range 2 {
		var items []string
		for _, of := range []string{id, other, "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"} {
			items = append(items, fmt.Sprintf(`{"job_id":%q,"fence":%d,"outcome":"complete"}`, of, job.Fence))
		}
		results := d.post(worker+"/outcomes", `{"outcomes":[`+strings.Join(items, ",")+`]}`).is(http.StatusOK).object()["results"].([]any)
		require.Equal(t, "completed", results[0].(map[string]any)["status"])
		require.Equal(t, "lease_lost", results[1].(map[string]any)["problem"].(map[string]any)["code"])
		require.Equal(t, "not_found", results[2].(map[string]any)["problem"].(map[string]any)["code"])
	}
}

func TestFailureGoesOnAsTheWorkerSays(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1"}`)
	for retry, want := range map[string]string{
		`"retry":"default"`: "retrying 3600", `"retry":"after","retry_after":"90s"`: "retrying 90", `"retry":"never"`: "dead not_retryable",
		`"retry":"cancel"`: "cancelled worker",
	} {
		id := d.enqueue(`{"queue":"fails","kind":"k"}`)
		job := d.claimFor(worker, `{"wait":"20s"}`)[0]
		got := d.post("/jobs/"+id+"/fail", fenced(job.Fence, `,"error":{"type":"T","message":"m 17"},`+retry)).is(http.StatusOK).object()
		status, detail, _ := strings.Cut(want, " ")
		require.Equal(t, status, got["status"])
		require.Equal(t, jobs.Fingerprint("k", "m 17"), got["error"].(map[string]any)["fingerprint"])
		if status != "retrying" {
			require.Equal(t, detail, got["reason"])
			continue
		}
		seconds := must(strconv.Atoi(detail))
		runAt := must(time.Parse(time.RFC3339, got["run_at"].(string)))
		updated := must(time.Parse(time.RFC3339, got["updated_at"].(string)))
		require.InEpsilon(t, seconds, runAt.Sub(updated).Seconds(), 0.11)
	}
}

// TestX7ClaimantWhoIsGoneGivesItsJobsBack: the row X7. The one who waits leaves; a job that comes then goes to another.
func TestX7ClaimantWhoIsGoneGivesItsJobsBack(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1"}`)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+"/api/v1"+worker+"/claim", strings.NewReader(`{"wait":"60s"}`))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if response, err := d.client.Do(r); err == nil {
				_ = response.Body.Close()
			}
		}()
		id := d.enqueue(`{"queue":"x7"}`)
		cancel() // at the same time as the claim
		<-ended
		// Whoever asks next gets it, or it was given to the one who left just before: then nobody holds it for longer than
		// it takes to notice, unless the answer was written already.
		pgtest.Eventually(t, 10*time.Second, "the job is pending, or was answered", func() bool {
			got := d.claimFor(worker, `{"wait":"0s"}`)
			if len(got) == 1 {
				require.Equal(t, id, got[0].ID)
				require.Equal(t, 1, got[0].Attempt)
				d.post("/jobs/"+id+"/complete", fenced(got[0].Fence, "")).is(http.StatusOK)
				return true
			}
			// The answer was written: two heartbeats that do not know of it give it back.
			d.age(id)
			d.post(worker+"/heartbeat", `{"leases":[],"busy":0}`).is(http.StatusOK)
			return false
		})
	}
}

// TestLeaseThatTwoHeartbeatsLeaveOutIsGivenBack: at no cost for the job.
func TestLeaseThatTwoHeartbeatsLeaveOutIsGivenBack(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1"}`)
	id := d.enqueue(`{"queue":"left"}`)
	job := d.claimFor(worker, `{"wait":"20s"}`)[0]
	with := fmt.Sprintf(`{"leases":[{"job_id":%q,"fence":%d}],"busy":1}`, id, job.Fence)
	// The answer to a claim may be on its way: a young lease does not count.
	for range 3 {
		d.post(worker+"/heartbeat", `{"leases":[],"busy":0}`).is(http.StatusOK)
	}
	require.Equal(t, "running", d.get("/jobs/"+id).text("status"))
	d.age(id)
	for _, beat := range []string{`{"leases":[],"busy":0}`, with, `{"leases":[],"busy":0}`} {
		d.post(worker+"/heartbeat", beat).is(http.StatusOK)
		require.Equal(t, "running", d.get("/jobs/"+id).text("status"))
	}
	d.post(worker+"/heartbeat", `{"leases":[],"busy":0}`).is(http.StatusOK)
	after := d.get("/jobs/" + id).object()
	require.Equal(t, "pending", after["status"])
	require.Equal(t, json.Number("0"), after["attempt"])
}

// TestProgressNeverCostsTheLeases: what cannot be stored of it is cut.
func TestProgressNeverCostsTheLeases(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1"}`)
	id := d.enqueue(`{"queue":"progress"}`)
	job := d.claimFor(worker, `{"wait":"20s"}`)[0]
	for _, progress := range []string{
		`5`, `[]`, `{"percent":1,"percent":2}`,
		`{"percent":500,"message":"a\u0000b"}`, `{"percent":"half"}`, `{"message":"` + strings.Repeat("x", 5000) + `"}`, `{"colour":1}`,
		`{"message":"\ud800"}`, `{"percent":1e999}`,
	} {
		beat := fmt.Sprintf(`{"leases":[{"job_id":%q,"fence":%d,"progress":%s}],"busy":1}`, id, job.Fence, progress)
		leases := d.post(worker+"/heartbeat", beat).is(http.StatusOK).object()["leases"].([]any)
		require.NotEmpty(t, leases[0].(map[string]any)["remaining"], progress)
	}
}

// age makes a lease older than that the answer to its claim can be on its way.
func (d *door) age(id string) {
	d.t.Helper()
	_, err := d.pool.Exec(d.t.Context(), `UPDATE mini_asynq.jobs SET locked_at = locked_at - interval '1 minute' WHERE id = $1 AND locked_by IS NOT NULL`, id)
	require.NoError(d.t, err)
}

// TestWorkersThatWentWithTheirNodeGoOffline: a node that never heard of them looks.
func TestWorkersThatWentWithTheirNodeGoOffline(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	first := setupOn(t, dsn)
	second := setupOn(t, dsn)
	worker := first.register(`{"name":"w1"}`)
	_, err := first.pool.Exec(t.Context(), `UPDATE mini_asynq.workers SET last_seen_at = clock_timestamp() - interval '1 hour'`)
	require.NoError(t, err)
	pgtest.Eventually(t, 45*time.Second, "it is offline", func() bool { return second.get(worker).text("state") == "offline" })
}

func TestHeartbeatCarriesCommands(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","slots":4}`)
	id := d.enqueue(`{"queue":"commands"}`)
	job := d.claimFor(worker, `{"wait":"20s"}`)[0]
	d.post("/admin/jobs/"+id+"/cancel", "", asAdmin).is(http.StatusAccepted)
	beat := fmt.Sprintf(`{"leases":[{"job_id":%q,"fence":%d,"progress":{"percent":10}}],"busy":1}`, id, job.Fence)
	commands := d.post(worker+"/heartbeat", beat).is(http.StatusOK).object()["commands"].([]any)
	require.Len(t, commands, 1)
	require.Equal(t, "cancel", commands[0].(map[string]any)["type"])
	require.Equal(t, id, commands[0].(map[string]any)["job_id"])
	require.Equal(t, "cancelled", d.post("/jobs/"+id+"/fail", fenced(job.Fence, `,"error":{"message":"stopped"}`)).is(http.StatusOK).text("status"))

	// A parked claim answers when its worker is asked to be quiet, and the next ones give nothing.
	var parked sync.WaitGroup
	parked.Go(func() {
		a := d.post(worker+"/claim", `{"wait":"60s"}`).is(http.StatusOK).object()
		require.Empty(t, a["jobs"])
		require.Equal(t, "drain", a["commands"].([]any)[0].(map[string]any)["type"])
	})
	pgtest.Eventually(t, 10*time.Second, "the claim is parked", func() bool { return d.server.ParkedClaims() == 1 })
	asked := d.post("/admin/workers/"+strings.TrimPrefix(worker, "/workers/")+"/drain", `{"reason":"upgrade"}`, asAdmin).is(http.StatusAccepted)
	require.Equal(t, "draining", asked.text("state"))
	parked.Wait()
	d.enqueue(`{"queue":"commands"}`)
	require.Empty(t, d.claimFor(worker, `{"wait":"1s"}`))
	require.Equal(t, "draining", d.get(worker).text("state"))
}

// TestRemovedWorkerGivesItsLeasesBack: DELETE is the end of a stop in order.
func TestRemovedWorkerGivesItsLeasesBack(t *testing.T) {
	t.Parallel()
	d := setup(t)
	worker := d.register(`{"name":"w1","slots":3}`)
	id := d.enqueue(`{"queue":"removed"}`)
	d.claimFor(worker, `{"wait":"20s"}`)
	d.send(http.MethodDelete, "/api/v1"+worker, "").is(http.StatusNoContent)
	require.Equal(t, "pending", d.get("/jobs/"+id).text("status"))
	d.send(http.MethodDelete, "/api/v1"+worker, "").problem(http.StatusNotFound, "not-found")
}

// TestManyParkedClaimsShareTheWork: each job goes to one of them, and none is lost.
func TestManyParkedClaimsShareTheWork(t *testing.T) {
	t.Parallel()
	d := setup(t)
	const claimants, n = 40, 200
	got := make(chan claimedJob, n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range claimants {
		worker := d.register(fmt.Sprintf(`{"name":"w%d","queues":{"many":1},"slots":5}`, i))
		wg.Go(func() {
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+"/api/v1"+worker+"/claim", strings.NewReader(`{"max":1,"wait":"30s"}`))
				if err != nil {
					return
				}
				r.Header.Set("Content-Type", "application/json")
				response, err := d.client.Do(r)
				if err != nil {
					return
				}
				var answer struct{ Jobs []claimedJob }
				err = json.NewDecoder(response.Body).Decode(&answer)
				_ = response.Body.Close()
				if err != nil {
					return
				}
				for _, j := range answer.Jobs {
					got <- j
				}
			}
		})
	}
	pgtest.Eventually(t, 20*time.Second, "all are parked", func() bool { return d.server.ParkedClaims() == claimants })
	for range n {
		d.enqueue(`{"queue":"many"}`)
	}
	seen := make(map[string]bool, n)
	for range n {
		select {
		case j := <-got:
			require.False(t, seen[j.ID], "one job, two claims")
			seen[j.ID] = true
		case <-time.After(20 * time.Second):
			require.Fail(t, "a job was not claimed", "%d of %d were", len(seen), n)
		}
	}
	cancel()
	wg.Wait()
}
