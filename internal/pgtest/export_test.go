package pgtest

import "context"

// NewFromTemplate is newFromTemplate.
var NewFromTemplate = newFromTemplate

// OwnedPrefix begins the names of databases of tests.
func OwnedPrefix() string { return ownedPrefix }

// Sweep is what the first test of a binary does about the dead.
func Sweep(ctx context.Context) error {
	base, err := baseDir()
	if err != nil {
		return err
	}
	if err := sweepFolders(ctx, base); err != nil {
		return err
	}
	return shared.sweep(ctx)
}
