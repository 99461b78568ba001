package native

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// credentials are what a container's processes run as.
type credentials struct {
	change   bool // become another user than the agent's
	uid, gid uint32
	groups   []uint32
}

// chown gives a path that the agent has made to the container's user.
func (w *credentials) chown(path string) error {
	if !w.change {
		return nil
	}
	return os.Lchown(path, int(w.uid), int(w.gid))
}

// lookUp finds an account by name or by number.
func (c *Containerizer) lookUp(name string) (*credentials, error) {
	if name == "" || c.cfg.NoSwitchUser {
		return &credentials{}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if _, nerr := strconv.ParseUint(name, 10, 32); nerr == nil {
			u, err = user.LookupId(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("user %q does not exist on this agent", name)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("user %q has no numbers: uid %q, gid %q", name, u.Uid, u.Gid)
	}
	if int(uid) == os.Geteuid() {
		return &credentials{}, nil
	}
	if !c.iso.root {
		return nil, fmt.Errorf("cannot run as user %q: the agent does not run as root; start it with --no-switch_user or as root", name)
	}
	w := &credentials{change: true, uid: uint32(uid), gid: uint32(gid)}
	gs, err := u.GroupIds()
	if err != nil {
		gs = nil // an account without an entry in the group file has its own group only
	}
	for _, g := range gs {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			w.groups = append(w.groups, uint32(n))
		}
	}
	return w, nil
}
