//go:build !race

package vmtest

// race says that tests in the machine do not look for races.
const race = false
