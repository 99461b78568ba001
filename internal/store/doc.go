// Package store is the contract of the registry: a small transactional map from keys to versioned values, written by one
// leader at a time. Masters keep what must survive a crash in it (agents, frameworks, quota, …), Marathon its services.
//
// Implementations: bolt (one file, the default), mem (tests and simulation), zookeeper (several masters). All of them pass
// the suite in storetest, which is the precise statement of the semantics.
//
// Invariants:
//   - A transaction happens whole or not at all. When Txn returns nil (or Submit's callback gets nil) it is on disk.
//   - Only the latest claimed epoch writes. Once Claim returned, no transaction of an earlier epoch can succeed, however
//     long its leader was paused.
//   - Transactions of one Writer take effect in the order of the Submit calls. Several are committed together when they
//     arrive faster than the disk takes them (group commit); a refused one does not disturb its neighbours.
//   - A key's version is 1 after it is created and grows by one with each put. A deleted key has version 0 and starts at 1
//     again. A writer therefore knows the versions that its own writes give.
//   - Values are the caller's bytes; slices passed in are not kept and those handed out are the caller's.
package store
