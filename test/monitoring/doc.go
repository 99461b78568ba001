// Package monitoring holds the black-box tests of probe and monitor together: both run in the test's process, and meet only on
// the wire.
package monitoring
