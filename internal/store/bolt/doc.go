// Package bolt is the embedded registry: one bbolt file on one machine, the default when there is a single master.
//
// One goroutine commits. It takes all transactions that wait (up to a bound) into one bbolt transaction and one fsync, so that
// the cost of the disk is shared; each is checked against what the ones before it did, and a refused one is left out. Every value
// carries a CRC-32C, so that a damaged page is told rather than served.
//
// The file is locked while open. The caller owns the directory; the file is created with mode 0600.
package bolt
