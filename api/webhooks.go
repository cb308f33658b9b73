package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Webhooks is what sends events to webhooks: *events.Webhooks.
type Webhooks interface {
	CheckURL(url string) (refused string)
	Test(ctx context.Context, id uuid.UUID) (events.WebhookTest, error)
}

type webhookBody struct {
	ID             uuid.UUID           `json:"id"`
	URL            text                `json:"url"` // null for callers without admin: an address may hold a secret
	Filter         map[string][]string `json:"filter"`
	IncludePayload bool                `json:"include_payload"`
	Enabled        bool                `json:"enabled"`
	DisabledReason text                `json:"disabled_reason"`
	DisabledAt     stamp               `json:"disabled_at"`
	Cursor         string              `json:"cursor"`
	LagEvents      int64               `json:"lag_events"`
	Replay         *replayBody         `json:"replay"`
	Parked         int                 `json:"parked"`
	GivenUp        int                 `json:"given_up"`
	Delivered      int64               `json:"delivered_total"`
	Failed         int64               `json:"failed_total"`
	LastSuccessAt  stamp               `json:"last_success_at"`
	FailingSince   stamp               `json:"failing_since"`
	CreatedBy      string              `json:"created_by"`
	CreatedAt      stamp               `json:"created_at"`
	UpdatedAt      stamp               `json:"updated_at"`
	Version        int64               `json:"version"`
	Secret         string              `json:"secret,omitempty"` // in the answer that makes it, and never again
}

type replayBody struct {
	Cursor string `json:"cursor"`
	Until  string `json:"until"`
}

func (s *Server) webhookOf(c *gin.Context, w *jobs.Webhook) webhookBody {
	at := events.Position{Epoch: w.Epoch, Seq: w.Seq}
	b := webhookBody{
		ID: w.ID, Filter: w.Filter, IncludePayload: w.IncludePayload, Enabled: w.Enabled,
		DisabledReason: text(w.DisabledReason), DisabledAt: stamp(w.DisabledAt), Cursor: at.String(), Parked: w.Parked,
		GivenUp: w.GivenUp, Delivered: w.Delivered, Failed: w.Failed, LastSuccessAt: stamp(w.LastSuccess),
		FailingSince: stamp(w.FailingSince), CreatedBy: w.CreatedBy, CreatedAt: stamp(w.CreatedAt),
		UpdatedAt: stamp(w.UpdatedAt), Version: w.Version,
	}
	if callOf(c).principal.Allows(ScopeAdmin) {
		b.URL = text(w.URL)
	}
	if head, err := s.config.Stream.Head(); err == nil && head.Epoch == w.Epoch {
		b.LagEvents = max(head.Seq-w.Seq, 0)
	}
	if w.ReplayUntil > 0 {
		b.Replay = &replayBody{
			events.Position{Epoch: w.Epoch, Seq: w.ReplaySeq}.String(), events.Position{Epoch: w.Epoch, Seq: w.ReplayUntil}.String(),
		}
	}
	return b
}

func (s *Server) replyWebhook(c *gin.Context, status int, w *jobs.Webhook, secret []byte) error {
	body := s.webhookOf(c, w)
	if secret != nil {
		body.Secret = events.WebhookSecretText(secret)
	}
	c.Header("ETag", etag(w.Version))
	return reply(c, status, body)
}

// webhookFields are what people set; nil is not given.
type webhookFields struct {
	jobs.WebhookEdit
	reason string
}

// decodeWebhook reads the body of a new webhook or of an edit.
func (s *Server) decodeWebhook(raw []byte, edit bool) (f webhookFields, err error) {
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch {
		case key == "reason" && edit:
			f.reason = reasonOf(v)
		case key == "url":
			if text, ok := v.text(); ok {
				f.URL = &text
				if refused := s.config.Webhooks.CheckURL(text); refused != "" {
					v.refuse("invalid_url", refused)
				}
			}
		case key == "filter":
			f.Filter, _ = eventFilterOf(v)
		case key == "enabled":
			f.Enabled = truthOrNil(v)
		case key == "include_payload":
			f.IncludePayload = truthOrNil(v)
		default:
			return false
		}
		return true
	})
	if err == nil && f.URL == nil && !edit {
		err = refusedFields([]fieldError{{"/url", "missing", "where the events go"}})
	}
	return f, err
}

func truthOrNil(v value) *bool {
	if v.isNull() {
		return nil
	}
	yes := v.truth()
	return &yes
}

func (s *Server) createWebhook(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	f, err := s.decodeWebhook(raw, false)
	if err != nil {
		return err
	}
	head, err := s.config.Stream.Head()
	if err != nil {
		return err
	}
	w := jobs.Webhook{
		URL: *f.URL, Filter: f.Filter, Enabled: f.Enabled == nil || *f.Enabled,
		IncludePayload: f.IncludePayload != nil && *f.IncludePayload, Epoch: head.Epoch, Seq: head.Seq,
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	secret := events.NewWebhookSecret()
	created, err := jobs.CreateWebhook(ctx, s.config.DB, w, secret, s.actOf(c, ""))
	if err != nil {
		return err
	}
	c.Header("Location", s.config.BasePath+prefix+"/admin/webhooks/"+created.ID.String())
	return s.replyWebhook(c, http.StatusCreated, created, secret)
}

func (s *Server) listWebhooks(c *gin.Context) error {
	return listByID(c, s, jobs.Webhooks, func(w *jobs.Webhook) uuid.UUID { return w.ID },
		func(w *jobs.Webhook) (webhookBody, bool) { return s.webhookOf(c, w), true })
}

func (s *Server) getWebhook(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	w, err := jobs.GetWebhook(ctx, s.config.DB, id)
	if err != nil {
		return err
	}
	return s.replyWebhook(c, http.StatusOK, w, nil)
}

func (s *Server) patchWebhook(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	based, err := basedOn(c.Request.Header)
	if err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	f, err := s.decodeWebhook(raw, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	w, err := jobs.EditWebhook(ctx, s.config.DB, id, based, f.WebhookEdit, s.actOf(c, f.reason))
	if err != nil {
		return err
	}
	return s.replyWebhook(c, http.StatusOK, w, nil)
}

func (s *Server) deleteWebhook(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		if err := jobs.DeleteWebhook(ctx, s.config.DB, id, act); err != nil {
			return err
		}
		c.Status(http.StatusNoContent)
		return nil
	})
}

// testWebhook sends an event and tells how it ended. It takes as long as the other side, 15 seconds at most.
func (s *Server) testWebhook(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	a, err := s.readAction(c)
	if err != nil {
		return err
	}
	out, err := s.config.Webhooks.Test(c.Request.Context(), id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	act := s.actOf(c, a.reason)
	if err := act.Record(ctx, s.config.DB, jobs.Entry{Action: "webhook.test", Target: id.String()}); err != nil {
		return err
	}
	var status *int
	if out.Status != 0 {
		status = &out.Status
	}
	return reply(c, http.StatusOK, struct {
		Delivered bool  `json:"delivered"`
		Status    *int  `json:"status"`
		TookMS    int64 `json:"took_ms"`
		Detail    text  `json:"detail"`
	}{out.Delivered, status, out.Took.Milliseconds(), text(out.Detail)})
}

func (s *Server) rotateWebhookSecret(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		secret := events.NewWebhookSecret()
		w, err := jobs.RotateWebhookSecret(ctx, s.config.DB, id, secret, act)
		if err != nil {
			return err
		}
		return s.replyWebhook(c, http.StatusOK, w, secret)
	})
}

func (s *Server) pauseWebhook(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		w, err := jobs.PauseWebhook(ctx, s.config.DB, id, act)
		if err != nil {
			return err
		}
		return s.replyWebhook(c, http.StatusOK, w, nil)
	})
}

// resumeWebhook goes on where the webhook stood, if the events after that are still kept; else the caller says from where.
func (s *Server) resumeWebhook(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, a actionBody, act jobs.Act) error {
		w, err := jobs.GetWebhook(ctx, s.config.DB, id)
		if err != nil {
			return err
		}
		at := events.Position{Epoch: w.Epoch, Seq: w.Seq}
		from, err := s.config.Stream.Resolve(ctx, cmp.Or(a.after, at.String()))
		if err != nil && (a.after != "" || !w.Enabled) {
			return err
		}
		if a.after == "" {
			from = events.Position{}
		}
		w, err = jobs.ResumeWebhook(ctx, s.config.DB, id, from.Epoch, from.Seq, act)
		if err != nil {
			return err
		}
		return s.replyWebhook(c, http.StatusOK, w, nil)
	}, "after")
}

func (s *Server) replayWebhook(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	a, err := decodeAction(raw, "after", "until")
	if err != nil {
		return err
	}
	if a.after == "" {
		return refusedFields([]fieldError{{"/after", "missing", "the position that the range begins after"}})
	}
	after, err := s.config.Stream.Resolve(c.Request.Context(), a.after)
	if err != nil {
		return err
	}
	until, err := s.config.Stream.Resolve(c.Request.Context(), a.untilCursor)
	if err != nil {
		return err
	}
	if until.Before(after) {
		return refusedFields([]fieldError{{"/until", "out_of_range", "not before after"}})
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	w, err := jobs.ReplayWebhook(ctx, s.config.DB, id, after.Epoch, after.Seq, until.Seq, s.actOf(c, a.reason))
	if errors.Is(err, jobs.ErrWrongEpoch) {
		return refuse(epochChanged, "the webhook stands in another history: resume it with after").with("epoch", after.Epoch)
	}
	if err != nil {
		return err
	}
	return s.replyWebhook(c, http.StatusOK, w, nil)
}
