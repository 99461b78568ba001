// Package heldport gives tests ports for servers that are started later, by other programs, or more than once, and that nobody else gets meanwhile.
//
// A port that is found by listening and given back is anybody's until its server listens: another test finds it too, a client's connection is
// given it, and while the server is down a client that calls it may be connected to itself. Here a socket stays bound to each port until the test
// ends. It does not listen: who connects is refused as where nobody is, and whoever knows the port listens there as if it were free (with
// SO_REUSEADDR, which Go, Java, Python and nearly every other server sets).
//
// Tests call it; it knows of nobody.
package heldport
