package doctor

import (
	"io/fs"
	"time"
)

// Described is a check as its page describes it.
type Described struct{ ID, Title, Advice string }

// Checks lists all of them.
func Checks() []Described {
	var list []Described
	for _, g := range groups() {
		for _, c := range g.checks {
			list = append(list, Described{c.id, c.title, c.advice})
		}
	}
	return list
}

// WithClock examines with another clock of this machine.
func (c Config) WithClock(now func() time.Time) Config {
	c.clock = now
	return c
}

// InAHurry examines with another idea of what is old for a transaction.
func (c Config) InAHurry(age time.Duration) Config {
	c.hurry = age
	return c
}

// WraparoundStatus is how a database of an age is judged.
func WraparoundStatus(age int64) Status { return judgeWraparound("x", age).status }

// PlannedNames lists what the migrations make, by kind.
func PlannedNames() (map[string][]string, error) {
	plan, err := planned()
	return plan.names(), err
}

// ReadPlan reads other migrations.
func ReadPlan(files fs.FS) (map[string][]string, error) {
	plan, err := readBlueprint(files)
	return plan.names(), err
}

func (b *blueprint) names() map[string][]string {
	all := map[string][]string{}
	if b == nil {
		return all
	}
	for name, t := range b.tables {
		all["table"] = append(all["table"], name)
		for _, column := range t.columns {
			all["column"] = append(all["column"], name+"."+column)
		}
		for _, constraint := range t.constraints {
			all["constraint"] = append(all["constraint"], name+"."+constraint)
		}
	}
	for name, i := range b.indexes {
		all["index"] = append(all["index"], name+" on "+i.table)
	}
	for name := range b.triggers {
		all["trigger"] = append(all["trigger"], name)
	}
	for name := range b.functions {
		all["function"] = append(all["function"], name)
	}
	for name := range b.views {
		all["view"] = append(all["view"], name)
	}
	for name := range b.sequences {
		all["sequence"] = append(all["sequence"], name)
	}
	for name := range b.types {
		all["type"] = append(all["type"], name)
	}
	return all
}
