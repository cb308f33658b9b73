package peers

import (
	"context"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

// openers are the contenders. Never changed.
var openers = map[string]func(context.Context, Setting) (Session, error){
	figures.Mini:       openMini,
	figures.River:      openRiverDefaults,
	figures.RiverTuned: openRiverTuned,
	figures.Asynq:      openAsynq,
	figures.Graphile:   openGraphile,
	figures.Limit:      openLimit,
}
