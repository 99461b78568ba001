package docker

import (
	"os"
	"os/user"
	"strconv"
)

// owner is whom files in the sandbox belong to. What runs in the container runs as its image or its parameters say.
type owner struct {
	change   bool // another than the agent's own user
	uid, gid int
}

// owner looks an account up, by name or number. An unknown one owns nothing: the agent has refused it before, or files stay
// the agent's.
func (c *Containerizer) owner(name string) owner {
	if name == "" || c.cfg.NoSwitchUser || os.Geteuid() != 0 {
		return owner{}
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return owner{}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil || uid == os.Geteuid() {
		return owner{}
	}
	return owner{change: true, uid: uid, gid: gid}
}
