package zk

import (
	"fmt"
)

// Error is a ZooKeeper error code, as in KeeperException.Code.
type Error int32

// The codes that servers send, and the client's own (ConnectionLoss, SessionExpired, AuthFailed).
const (
	ErrSystem                  Error = -1
	ErrRuntimeInconsistency    Error = -2
	ErrDataInconsistency       Error = -3
	ErrConnectionLoss          Error = -4
	ErrMarshalling             Error = -5
	ErrUnimplemented           Error = -6
	ErrOperationTimeout        Error = -7
	ErrBadArguments            Error = -8
	ErrUnknownSession          Error = -12
	ErrNewConfigNoQuorum       Error = -13
	ErrReconfigInProgress      Error = -14
	ErrAPI                     Error = -100
	ErrNoNode                  Error = -101
	ErrNoAuth                  Error = -102
	ErrBadVersion              Error = -103
	ErrNoChildrenForEphemerals Error = -108
	ErrNodeExists              Error = -110
	ErrNotEmpty                Error = -111
	ErrSessionExpired          Error = -112
	ErrInvalidCallback         Error = -113
	ErrInvalidACL              Error = -114
	ErrAuthFailed              Error = -115
	ErrSessionMoved            Error = -118
	ErrNotReadOnly             Error = -119
	ErrEphemeralOnLocalSession Error = -120
	ErrNoWatcher               Error = -121
	ErrRequestTimeout          Error = -122
	ErrReconfigDisabled        Error = -123
	ErrSASLRequired            Error = -124
	ErrQuotaExceeded           Error = -125
	ErrThrottled               Error = -127

	// Errors of this client, outside the server's range.
	ErrClosed     Error = -10001
	ErrTooLarge   Error = -10002
	ErrOverloaded Error = -10003
)

var errorText = map[Error]string{
	ErrSystem:                  "system error in the server",
	ErrRuntimeInconsistency:    "not tried, because another operation of the multi failed",
	ErrDataInconsistency:       "data inconsistency in the server",
	ErrConnectionLoss:          "connection lost before the answer (the outcome is unknown)",
	ErrMarshalling:             "the server could not read the request",
	ErrUnimplemented:           "this server does not know the operation",
	ErrOperationTimeout:        "operation timed out in the server",
	ErrBadArguments:            "bad arguments",
	ErrUnknownSession:          "unknown session",
	ErrNewConfigNoQuorum:       "no quorum of the new configuration is connected and up to date",
	ErrReconfigInProgress:      "another reconfiguration is in progress",
	ErrAPI:                     "API error",
	ErrNoNode:                  "no such node",
	ErrNoAuth:                  "not permitted by the node's ACL",
	ErrBadVersion:              "the version is not the expected one",
	ErrNoChildrenForEphemerals: "ephemeral nodes cannot have children",
	ErrNodeExists:              "node exists",
	ErrNotEmpty:                "node has children",
	ErrSessionExpired:          "session expired",
	ErrInvalidCallback:         "invalid callback",
	ErrInvalidACL:              "invalid ACL",
	ErrAuthFailed:              "authentication failed",
	ErrSessionMoved:            "session moved to another server",
	ErrNotReadOnly:             "the server is read-only (it has no quorum)",
	ErrEphemeralOnLocalSession: "ephemeral node on a local session",
	ErrNoWatcher:               "no such watch",
	ErrRequestTimeout:          "request timed out",
	ErrReconfigDisabled:        "reconfig is disabled on this server (reconfigEnabled=true turns it on)",
	ErrSASLRequired:            "the server closes sessions that do not authenticate by SASL",
	ErrQuotaExceeded:           "quota exceeded",
	ErrThrottled:               "throttled by the server",
	ErrClosed:                  "client is closed",
	ErrTooLarge:                "request is larger than the server's limit (jute.maxbuffer)",
	ErrOverloaded:              "too many requests are waiting",
}

// Error says what the code means.
func (e Error) Error() string {
	if s, ok := errorText[e]; ok {
		return "zookeeper: " + s
	}
	return fmt.Sprintf("zookeeper: error %d", int32(e))
}

// OpError tells which operation on which node failed; it unwraps to the Error (or the context's error).
type OpError struct {
	Op   string
	Path string
	Err  error
	// Hint, when set, says what else is known: the state of the connection, the failing member of a multi.
	Hint string
}

func (e *OpError) Error() string {
	s := "zk " + e.Op
	if e.Path != "" {
		s += " " + e.Path
	}
	s += ": " + e.Err.Error()
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *OpError) Unwrap() error { return e.Err }

// MultiError says which operation of a multi made all of it fail.
type MultiError struct {
	Index int
	Err   Error
}

func (e *MultiError) Error() string { return fmt.Sprintf("operation %d: %v", e.Index, e.Err) }
func (e *MultiError) Unwrap() error { return e.Err }
