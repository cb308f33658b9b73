package api

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// actOf is who acts by this call, from where, and why: for the event and for the audit log.
func (s *Server) actOf(c *gin.Context, reason string) jobs.Act {
	known := callOf(c)
	act := jobs.Act{
		Actor: known.principal.Name, Reason: reason, Audit: true, KeyID: known.principal.keyID, RequestID: known.id,
	}
	if known.address.IsValid() {
		act.Address = known.address.String()
	}
	return act
}

type auditBody struct {
	Time      stamp           `json:"time"`
	Actor     string          `json:"actor"`
	KeyID     text            `json:"key_id"`
	Address   text            `json:"address"`
	Action    string          `json:"action"`
	Target    text            `json:"target"`
	Reason    text            `json:"reason"`
	Before    json.RawMessage `json:"before"`
	After     json.RawMessage `json:"after"`
	RequestID text            `json:"request_id"`
}

func auditOf(r jobs.AuditRow) auditBody {
	b := auditBody{
		Time: stamp(r.At), Actor: r.Actor, Address: text(r.Address), Action: r.Action, Target: text(r.Target),
		Reason: text(r.Reason), Before: r.Before, After: r.After, RequestID: text(r.RequestID),
	}
	if r.KeyID != uuid.Nil {
		b.KeyID = text(r.KeyID.String())
	}
	return b
}

// listAudit shows who did what, newest first. The cursor is the number of the last line.
func (s *Server) listAudit(c *gin.Context) error {
	q := queryOf(c.Request, "actor", "action", "target", "after", "before", "limit", "cursor")
	f := jobs.AuditFilter{
		Actor: q.values["actor"], Action: q.values["action"], Target: q.values["target"],
		After: q.time("after"), Before: q.time("before"),
	}
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	who := callOf(c).principal
	var before int64
	if cursor, ok := q.values["cursor"]; ok {
		inner, valid := openCursor(cursor, who)
		n, err := strconv.ParseInt(inner, 10, 64)
		if !valid || err != nil {
			return jobs.ErrCursor
		}
		before = n
	}
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	found, err := jobs.AuditLog(c.Request.Context(), s.config.DB, f, before, limit+1)
	if err != nil {
		return err
	}
	out := list[auditBody]{Data: []auditBody{}, AsOf: asOf}
	if len(found) > limit {
		found = found[:limit]
		out.NextCursor = text(sealCursor(strconv.FormatInt(found[limit-1].ID, 10), who))
	}
	for _, r := range found {
		out.Data = append(out.Data, auditOf(r))
	}
	return reply(c, http.StatusOK, out)
}
