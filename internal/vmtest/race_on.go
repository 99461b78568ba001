//go:build race

package vmtest

// race says that tests in the machine look for races because those out here do.
const race = true
