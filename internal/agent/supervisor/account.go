package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// maxAccounts bounds what is read of an image's passwd and group.
const maxAccounts = 4 << 20

// resolveAccount finds a user as images name them (name or number, perhaps with :group) in the accounts of the calling
// thread's root, and makes the process that user.
func resolveAccount(p *spec.Process) error {
	name, group, hasGroup := strings.Cut(p.Account, ":")
	p.Switch = true
	var found bool
	var home string
	uid, numErr := strconv.ParseUint(name, 10, 32)
	err := eachLine("/etc/passwd", func(f []string) bool {
		if len(f) < 6 || f[0] != name && (numErr != nil || f[2] != name) {
			return true
		}
		u, err1 := strconv.ParseUint(f[2], 10, 32)
		g, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return true
		}
		found, p.UID, p.GID, name, home = true, uint32(u), uint32(g), f[0], f[5]
		return false
	})
	switch {
	case err != nil:
		return err
	case !found && numErr != nil:
		return fmt.Errorf("user %q does not exist in the image (/etc/passwd)", p.Account)
	case !found:
		p.UID, p.GID = uint32(uid), 0
	}
	var groups []uint32
	gid, gidErr := strconv.ParseUint(group, 10, 32)
	groupFound := false
	err = eachLine("/etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		g, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return true
		}
		if hasGroup && f[0] == group {
			p.GID, groupFound = uint32(g), true
		}
		if found {
			for m := range strings.SplitSeq(f[3], ",") {
				if m == name {
					groups = append(groups, uint32(g))
				}
			}
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case hasGroup && !groupFound && gidErr != nil:
		return fmt.Errorf("group %q does not exist in the image (/etc/group)", group)
	case hasGroup && !groupFound:
		p.GID = uint32(gid)
	}
	if !hasGroup {
		p.Groups = groups
	}
	if home != "" {
		for _, kv := range p.Env {
			if strings.HasPrefix(kv, "HOME=") {
				return nil
			}
		}
		p.Env = append(p.Env, "HOME="+home)
	}
	return nil
}

// eachLine gives the fields of every line until f has enough. A file that is not there has no lines.
func eachLine(path string, f func([]string) bool) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // an image may have a FIFO there
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the image's accounts: %w", err)
	}
	defer file.Close()
	if fi, err := file.Stat(); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("read the image's accounts: %s is no file", path)
	}
	sc := bufio.NewScanner(io.LimitReader(file, maxAccounts))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if !f(strings.Split(strings.TrimSpace(sc.Text()), ":")) {
			return nil
		}
	}
	return sc.Err()
}
