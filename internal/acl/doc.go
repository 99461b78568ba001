// Package acl is Mesos' local authorizer: the access control lists of --acls, evaluated as Mesos evaluates them (facts: Mesos
// src/authorizer/local). Masters and agents make one from their configuration and ask it who may do what.
//
// The document is an object of ordered lists, one per action; in each entry "principals" is who, and one other key is what:
//
//	{"permissive": false,
//	 "run_tasks": [{"principals": {"values": ["ops"]}, "users": {"type": "ANY"}}]}
//
// The first entry that matches both decides; without one, "permissive" does (true when it is not said). An action or key that
// Mesos does not know is an error, because a misspelt one would otherwise leave the door open.
package acl
