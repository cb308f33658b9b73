package jobs

import (
	"encoding/json"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Columns of many rows travel as arrays, and unnest makes rows of them again. These conversions keep pgx on its direct
// paths: as a driver.Valuer a uuid goes through its text form and a json.RawMessage through encoding/json, which at full
// load cost as much as everything else in the process (measured: 16 % of its CPU for the ids alone).

// idArray is ids as a parameter of type uuid[].
func idArray(ids []uuid.UUID) pgtype.FlatArray[[16]byte] {
	out := make(pgtype.FlatArray[[16]byte], len(ids))
	for i, id := range ids {
		out[i] = id
	}
	return out
}

// documentArray is one document of each of n rows as a parameter of type jsonb[]; nil is null.
func documentArray(n int, at func(i int) json.RawMessage) any {
	return optionalArray(n, func(i int) ([]byte, bool) { d := at(i); return d, d != nil })
}

// optionalArray collects a column that most rows leave out: at tells the value of row i and whether there is one. When
// no row has one the whole parameter is null, which unnest fills up with nulls.
func optionalArray[T any](n int, at func(i int) (T, bool)) any {
	var values []T
	var out pgtype.FlatArray[*T]
	for i := range n {
		value, ok := at(i)
		if !ok {
			continue
		}
		if out == nil {
			values, out = make([]T, n), make(pgtype.FlatArray[*T], n)
		}
		values[i] = value
		out[i] = &values[i]
	}
	if out == nil {
		return nil
	}
	return out
}

// rawID is where to scan an id to: as an array of bytes, for the same reason.
func rawID(id *uuid.UUID) *[16]byte { return (*[16]byte)(id) }

// rawJSON is where to scan a document to.
func rawJSON(document *json.RawMessage) *[]byte { return (*[]byte)(document) }
