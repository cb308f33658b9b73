package hub

import "maps"

// Verb is a frame that a client may send: its members beside t, and which of them must be there.
type Verb struct{ Members, Needs []string }

// Verbs are all of them, by t.
func Verbs() map[string]Verb {
	all := make(map[string]Verb, len(verbs))
	for t, verb := range verbs {
		var members []string
		for name := range maps.Keys(verb.members) {
			members = append(members, name)
		}
		all[t] = Verb{members, verb.needs}
	}
	return all
}

// CloseNames are the names of close codes in close reasons.
func CloseNames() map[CloseCode]string { return maps.Clone(closeNames) }
