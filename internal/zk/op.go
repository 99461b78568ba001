package zk

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// OpCode is a request type of the protocol (ZooDefs.OpCode).
type OpCode int32

// Request types, through 3.9.
const (
	OpNotification    OpCode = 0
	OpCreate          OpCode = 1
	OpDelete          OpCode = 2
	OpExists          OpCode = 3
	OpGet             OpCode = 4
	OpSet             OpCode = 5
	OpGetACL          OpCode = 6
	OpSetACL          OpCode = 7
	OpGetChildren     OpCode = 8
	OpSync            OpCode = 9
	OpPing            OpCode = 11
	OpChildren        OpCode = 12 // getChildren2: names and stat
	OpCheck           OpCode = 13
	OpMulti           OpCode = 14
	OpCreate2         OpCode = 15
	OpReconfig        OpCode = 16
	OpCheckWatches    OpCode = 17
	OpRemoveWatches   OpCode = 18
	OpCreateContainer OpCode = 19
	OpDeleteContainer OpCode = 20
	OpCreateTTL       OpCode = 21
	OpMultiRead       OpCode = 22
	OpAuth            OpCode = 100
	OpSetWatches      OpCode = 101
	OpSASL            OpCode = 102
	OpGetEphemerals   OpCode = 103
	OpCountChildren   OpCode = 104 // getAllChildrenNumber
	OpSetWatches2     OpCode = 105
	OpAddWatch        OpCode = 106
	OpWhoAmI          OpCode = 107
	OpCreateSession   OpCode = -10
	OpCloseSession    OpCode = -11
	OpErrorResult     OpCode = -1
)

var opNames = map[OpCode]string{
	OpCreate: "create", OpDelete: "delete", OpExists: "exists", OpGet: "get", OpSet: "set", OpGetACL: "getACL", OpSetACL: "setACL",
	OpGetChildren: "getChildren", OpSync: "sync", OpPing: "ping", OpChildren: "children", OpCheck: "check", OpMulti: "multi",
	OpCreate2: "create", OpReconfig: "reconfig", OpCheckWatches: "checkWatches", OpRemoveWatches: "removeWatches",
	OpCreateContainer: "create", OpDeleteContainer: "deleteContainer", OpCreateTTL: "create", OpMultiRead: "multiRead",
	OpAuth: "auth", OpSetWatches: "setWatches", OpSASL: "sasl", OpGetEphemerals: "getEphemerals", OpCountChildren: "countChildren",
	OpSetWatches2: "setWatches2", OpAddWatch: "addWatch", OpWhoAmI: "whoAmI", OpCreateSession: "createSession",
	OpCloseSession: "closeSession", OpErrorResult: "error",
}

func (c OpCode) String() string {
	if s, ok := opNames[c]; ok {
		return s
	}
	return "operation"
}

// CreateMode is how a node is created (the flags of CreateMode).
type CreateMode int32

// Modes of creation.
const (
	Persistent              CreateMode = 0
	Ephemeral               CreateMode = 1
	PersistentSequential    CreateMode = 2
	EphemeralSequential     CreateMode = 3
	Container               CreateMode = 4
	PersistentTTL           CreateMode = 5
	PersistentSequentialTTL CreateMode = 6
)

// Sequential reports whether the server appends a number to the name.
func (m CreateMode) Sequential() bool {
	return m == PersistentSequential || m == EphemeralSequential || m == PersistentSequentialTTL
}

// AnyVersion matches every version in Set, Delete, Check and SetACL.
const AnyVersion int32 = -1

// Op is one request. Use the constructors; the fields that each one fills are what the server sees.
type Op struct {
	Code    OpCode
	Path    string
	Data    []byte
	ACL     []ACL
	Mode    CreateMode
	TTL     time.Duration
	Version int32
	// Watch is registered when a read succeeds (or, for Exists, also when the node is absent).
	Watch *Watch
	// WatchMode is the mode of AddWatch, or the type of RemoveWatches.
	WatchMode WatchMode
	// Ops are the members of Multi and MultiRead.
	Ops []Op
	// Reconfig's arguments; Version of the configuration is in ConfigID.
	Joining, Leaving, Members string
	ConfigID                  int64
}

// Create makes a node; the answer holds the path (with its number when sequential). Servers from 3.3 on know it.
func Create(path string, data []byte, acl []ACL, mode CreateMode) Op {
	op := Op{Code: OpCreate, Path: path, Data: data, ACL: acl, Mode: mode}
	if mode == Container {
		op.Code = OpCreateContainer
	}
	return op
}

// Create2 makes a node and answers its Stat too (3.5+).
func Create2(path string, data []byte, acl []ACL, mode CreateMode) Op {
	op := Create(path, data, acl, mode)
	if op.Code == OpCreate {
		op.Code = OpCreate2
	}
	return op
}

// CreateTTL makes a node that the server removes when it has no children and was not changed for ttl. The mode is
// PersistentTTL or PersistentSequentialTTL; the server needs zookeeper.extendedTypesEnabled.
func CreateTTL(path string, data []byte, acl []ACL, mode CreateMode, ttl time.Duration) Op {
	return Op{Code: OpCreateTTL, Path: path, Data: data, ACL: acl, Mode: mode, TTL: ttl}
}

// Delete removes a node that has no children.
func Delete(path string, version int32) Op { return Op{Code: OpDelete, Path: path, Version: version} }

// Set replaces a node's data.
func Set(path string, data []byte, version int32) Op {
	return Op{Code: OpSet, Path: path, Data: data, Version: version}
}

// Check fails its multi unless the node has this version. Outside a multi servers below 3.9 refuse it.
func Check(path string, version int32) Op { return Op{Code: OpCheck, Path: path, Version: version} }

// Get reads a node's data and Stat.
func Get(path string) Op { return Op{Code: OpGet, Path: path} }

// Exists reads a node's Stat.
func Exists(path string) Op { return Op{Code: OpExists, Path: path} }

// Children lists a node's children and reads its Stat.
func Children(path string) Op { return Op{Code: OpChildren, Path: path} }

// GetACL reads a node's ACL and Stat.
func GetACL(path string) Op { return Op{Code: OpGetACL, Path: path} }

// SetACL replaces a node's ACL; version is the ACL's (aversion).
func SetACL(path string, acl []ACL, version int32) Op {
	return Op{Code: OpSetACL, Path: path, ACL: acl, Version: version}
}

// Sync makes later reads of this client see all that was committed before it.
func Sync(path string) Op { return Op{Code: OpSync, Path: path} }

// Multi does all of ops or none: Create, Create2, CreateTTL, Delete, Set and Check.
func Multi(ops ...Op) Op { return Op{Code: OpMulti, Ops: ops} }

// MultiRead reads several nodes at once: Get and Children (names only), each with a result of its own (3.6+).
func MultiRead(ops ...Op) Op { return Op{Code: OpMultiRead, Ops: ops} }

// AddWatch registers a persistent or recursive watch (3.6+).
func AddWatch(path string, mode WatchMode, w *Watch) Op {
	return Op{Code: OpAddWatch, Path: path, WatchMode: mode, Watch: w}
}

// RemoveWatches removes all watches of one type on a path, here and in the server (3.5+). Servers below 3.9 know
// only WatchChildren, WatchData and WatchAny, the last of which takes persistent watches too.
func RemoveWatches(path string, mode WatchMode) Op {
	return Op{Code: OpRemoveWatches, Path: path, WatchMode: mode}
}

// GetEphemerals lists the ephemeral nodes of this session below a prefix (3.6+).
func GetEphemerals(prefix string) Op { return Op{Code: OpGetEphemerals, Path: prefix} }

// CountChildren counts all nodes below a path (3.6+).
func CountChildren(path string) Op { return Op{Code: OpCountChildren, Path: path} }

// WhoAmI lists the identities of this session (3.7+).
func WhoAmI() Op { return Op{Code: OpWhoAmI} }

// Reconfig changes the ensemble's members: incrementally by joining and leaving, or as a whole by members. A configID of
// -1 accepts any current configuration. The answer's data is the new configuration (3.5+, reconfigEnabled).
func Reconfig(joining, leaving, members string, configID int64) Op {
	return Op{Code: OpReconfig, Joining: joining, Leaving: leaving, Members: members, ConfigID: configID}
}

// Watched returns the read with a one-shot watch to register.
func (op Op) Watched(w *Watch) Op {
	op.Watch = w
	return op
}

// Result is the answer to an Op; each kind of Op fills the fields that its answer has.
type Result struct {
	Zxid     int64 // the server's last transaction when it answered
	Path     string
	Data     []byte
	Stat     Stat
	Children []string // names of Children, paths of GetEphemerals
	ACL      []ACL
	Count    int32
	Clients  []ClientInfo
	Results  []Result // of Multi and MultiRead
	Err      Error    // of a member of Multi or MultiRead; 0 when it succeeded
}

// validate refuses what the server would refuse, and what would make it close the connection.
func (op *Op) validate(inMulti bool) error {
	switch op.Code {
	case OpMulti, OpMultiRead:
		if inMulti {
			return ErrBadArguments
		}
		for i := range op.Ops {
			sub := &op.Ops[i]
			switch sub.Code {
			case OpCreate, OpCreate2, OpCreateContainer, OpCreateTTL, OpDelete, OpSet, OpCheck:
				if op.Code == OpMultiRead {
					return &MultiError{i, ErrBadArguments}
				}
			case OpGet, OpChildren:
				if op.Code == OpMulti {
					return &MultiError{i, ErrBadArguments}
				}
			default:
				return &MultiError{i, ErrBadArguments}
			}
			if err := sub.validate(true); err != nil {
				return err
			}
		}
		return nil
	case OpWhoAmI, OpReconfig, OpCloseSession:
		return nil
	case OpCreate, OpCreate2, OpCreateContainer, OpCreateTTL:
		if op.Mode.Sequential() {
			return ValidatePath(op.Path + "1")
		}
	}
	return ValidatePath(op.Path)
}

// appendBody appends the request's record.
func (op *Op) appendBody(b []byte, root chroot) []byte {
	path := op.Path
	if op.Code != OpMulti && op.Code != OpMultiRead && op.Code != OpWhoAmI && op.Code != OpReconfig && op.Code != OpCloseSession {
		path = root.server(path)
		if root != "" && path == string(root) && op.Mode.Sequential() && op.Path == "/" {
			path += "/" // a sequential child of the root without a prefix
		}
	}
	switch op.Code {
	case OpCreate, OpCreate2, OpCreateContainer, OpCreateTTL:
		b = jute.AppendString(b, path)
		b = jute.AppendBuffer(b, op.Data)
		b = AppendACL(b, op.ACL)
		b = jute.AppendInt(b, int32(op.Mode))
		if op.Code == OpCreateTTL {
			b = jute.AppendLong(b, int64(op.TTL/time.Millisecond))
		}
	case OpDelete, OpCheck:
		b = jute.AppendString(b, path)
		b = jute.AppendInt(b, op.Version)
	case OpExists, OpGet, OpChildren:
		b = jute.AppendString(b, path)
		b = jute.AppendBool(b, op.Watch != nil)
	case OpGetACL, OpSync, OpGetEphemerals, OpCountChildren:
		b = jute.AppendString(b, path)
	case OpSet:
		b = jute.AppendString(b, path)
		b = jute.AppendBuffer(b, op.Data)
		b = jute.AppendInt(b, op.Version)
	case OpSetACL:
		b = jute.AppendString(b, path)
		b = AppendACL(b, op.ACL)
		b = jute.AppendInt(b, op.Version)
	case OpAddWatch:
		b = jute.AppendString(b, path)
		b = jute.AppendInt(b, op.WatchMode.addMode())
	case OpRemoveWatches:
		b = jute.AppendString(b, path)
		b = jute.AppendInt(b, int32(op.WatchMode))
	case OpReconfig:
		for _, list := range []string{op.Joining, op.Leaving, op.Members} {
			if list == "" { // what is not asked for must be null
				b = jute.AppendBuffer(b, nil)
			} else {
				b = jute.AppendString(b, list)
			}
		}
		b = jute.AppendLong(b, op.ConfigID)
	case OpMulti, OpMultiRead:
		for i := range op.Ops {
			code := op.Ops[i].Code
			if code == OpChildren {
				code = OpGetChildren // the only form that multiRead knows: names without a Stat
			}
			b = appendMultiHeader(b, code, false)
			b = op.Ops[i].appendBody(b, root)
		}
		b = appendMultiHeader(b, -1, true)
	case OpSASL:
		b = jute.AppendBuffer(b, op.Data)
	}
	return b
}

func appendMultiHeader(b []byte, code OpCode, done bool) []byte {
	b = jute.AppendInt(b, int32(code))
	b = jute.AppendBool(b, done)
	return jute.AppendInt(b, -1)
}

// decodeResult reads the record behind a reply header without error.
func (op *Op) decodeResult(d *jute.Decoder, root chroot) (Result, error) {
	var r Result
	switch op.Code {
	case OpCreate:
		r.Path = root.caller(d.String())
	case OpCreate2, OpCreateContainer, OpCreateTTL:
		r.Path = root.caller(d.String())
		decodeStat(d, &r.Stat)
	case OpExists, OpSet, OpSetACL:
		decodeStat(d, &r.Stat)
	case OpGet, OpReconfig:
		r.Data = d.Buffer()
		decodeStat(d, &r.Stat)
	case OpChildren:
		r.Children = d.Strings()
		decodeStat(d, &r.Stat)
	case OpGetACL:
		r.ACL = DecodeACL(d)
		decodeStat(d, &r.Stat)
	case OpSync:
		r.Path = root.caller(d.String())
	case OpGetEphemerals:
		r.Children = d.Strings()
		for i := range r.Children {
			r.Children[i] = root.caller(r.Children[i])
		}
	case OpCountChildren:
		r.Count = d.Int()
	case OpWhoAmI:
		for range d.Count(8) {
			r.Clients = append(r.Clients, ClientInfo{d.String(), d.String()})
		}
	case OpSASL:
		r.Data = d.Buffer()
	case OpMulti, OpMultiRead:
		r.Results = make([]Result, 0, len(op.Ops))
		for {
			code, done, _ := OpCode(d.Int()), d.Bool(), d.Int()
			if done || d.Err() != nil {
				break
			}
			if len(r.Results) == len(op.Ops) {
				return r, errProtocol("multi has more results than operations")
			}
			if code == OpErrorResult {
				r.Results = append(r.Results, Result{Err: Error(d.Int())})
				continue
			}
			// The header names the shape of the result: a server may answer create by the old or the new record. Reads
			// answer getChildren with names only.
			sub := Op{Code: code}
			if code == OpGetChildren {
				r.Results = append(r.Results, Result{Children: d.Strings()})
				continue
			}
			if code == OpDelete || code == OpCheck {
				r.Results = append(r.Results, Result{})
				continue
			}
			if code == OpMulti || code == OpMultiRead || code == OpSASL {
				return r, errProtocol("multi answers an operation that cannot be in it")
			}
			s, err := sub.decodeResult(d, root)
			if err != nil {
				return r, err
			}
			r.Results = append(r.Results, s)
		}
		if d.Err() == nil && len(r.Results) < len(op.Ops) {
			return r, errProtocol("multi has fewer results than operations")
		}
	}
	if d.Err() != nil {
		return r, errProtocol(op.Code.String() + " answer: " + d.Err().Error())
	}
	return r, nil
}

// multiError finds the member that made a multi fail. A failed multi's header says 0: the errors are in the body.
func multiError(results []Result) error {
	for i := range results {
		if e := results[i].Err; e != 0 {
			return &MultiError{i, e}
		}
	}
	return nil
}

type errProtocol string

func (e errProtocol) Error() string { return "zookeeper protocol: " + string(e) }
