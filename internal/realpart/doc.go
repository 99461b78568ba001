// Package realpart says what becomes of a test whose real part is not there. No other package skips a test (internal/archtest looks): so
// with CI set every test runs, but those that take long and those that this machine's kernel cannot run and another one does.
//
// Tests call it. With CI set what test/deps.sh installs, and root, must be there: a test that misses it fails. Without, it is skipped, so that whoever
// has not installed everything can run the rest.
package realpart
