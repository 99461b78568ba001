// Package learner is the observer's end of ZooKeeper's quorum port: it joins an ensemble, is brought up to date by a snapshot or
// by the transactions that it missed, and then yields every committed transaction in order.
//
// The observer is not in the ensemble's configuration, never votes, and writes nothing. Its server id must not be that of a
// configured server (Config.ServerID), and it never claims an epoch or a transaction that it did not read. Servers 3.4 through
// 3.9 speak it alike. An open quorum port gives the whole tree without asking for ACLs: the network must guard it.
//
// A leader keeps what a slow learner has not taken in its own memory. So the handler must take everything at once and
// put it where it likes; who cannot keep up disconnects and comes back with the last transaction that it has.
package learner
