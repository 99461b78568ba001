// Package zktest runs real ZooKeeper servers (Debian's zookeeper package, on loopback) for tests of other packages.
//
// Shared gives all tests of one test binary the same single server, each below a path of its own; Start gives a test an
// ensemble that it may break. Without Java or ZooKeeper a test is skipped, or fails when CI is set. Servers die with the
// test binary, also when that is killed.
package zktest
