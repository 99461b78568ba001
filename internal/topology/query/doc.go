// Package query is the monitor's search grammar: parser, syntax tree and matching (docs/reference/monitor-api.md 5).
//
// The console has the same parser in TypeScript; testdata/vectors.json holds both to one meaning. Parse is total: any text
// gives a tree or an Error with the column, within the limits below. An Expr is immutable and may be shared.
package query
