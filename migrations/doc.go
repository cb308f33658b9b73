// Package migrations holds the schema of Mini Asynq, schema mini_asynq, as embedded SQL files, and brings a database to
// it. It promises: nodes that start at once do not disturb each other; a schema that is current is not locked; a schema
// that needs a newer server is refused and left alone; each file is one transaction, so a killed migration leaves the
// version before.
//
// It imports nothing of the product. DDL stands here and nowhere else; files are never edited after a release.
package migrations
