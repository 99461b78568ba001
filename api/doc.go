// Package api holds nothing itself: below it are the wire schemas and the code generated from them (generate.sh).
package api
