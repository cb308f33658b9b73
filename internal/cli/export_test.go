package cli

import "slices"

// ServerSettings are the names of Environment as its flags read them: a secret by the file that holds it.
func ServerSettings() []string {
	names := Names()
	for i, name := range names {
		if slices.Contains(secrets, name) {
			names[i] = name + "_FILE"
		}
	}
	return names
}
