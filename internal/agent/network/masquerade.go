package network

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// deleting notes that the deletion of a container's networks has begun, and tells whether it had before.
func (n *Networks) deleting(id string) (before bool, err error) {
	f, err := os.OpenFile(filepath.Join(n.dir(id), "deleting"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("note that the container's networks are being left: %w", err)
	}
	return false, f.Close()
}

// masqueradeChain is the name that the standard plugins (bridge, ptp) give to a container's own chain of address translation.
func masqueradeChain(network, id string) string {
	return fmt.Sprintf("CNI-%x", sha512.Sum512([]byte(network+id)))[:28]
}

// dropMasquerade removes the rules of address translation that the standard plugins have made for a container. Their own deletion
// finds them by the addresses of the container's interface, and leaves them when it is cut short after it has removed that.
func dropMasquerade(ctx context.Context, limit time.Duration, network, id string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	chain := masqueradeChain(network, id)
	for _, tool := range []string{"iptables", "ip6tables"} {
		// The plugins need the same programs: where there are none, they have made no rules.
		if _, err := exec.LookPath(tool + "-save"); err != nil {
			continue
		}
		rules, err := exec.CommandContext(ctx, tool+"-save", "-t", "nat").Output()
		if err != nil {
			continue // the kernel has no such table
		}
		var undo strings.Builder
		for line := range strings.Lines(string(rules)) {
			rest, isRule := strings.CutPrefix(line, "-A ")
			switch {
			case !strings.Contains(line, chain):
			case strings.HasPrefix(line, ":"+chain+" "):
				undo.WriteString("-F " + chain + "\n")
			case isRule && !strings.HasPrefix(rest, chain+" "):
				undo.WriteString("-D " + rest)
			}
		}
		if undo.Len() == 0 {
			continue
		}
		restore := exec.CommandContext(ctx, tool+"-restore", "--noflush", "--wait")
		restore.Stdin = strings.NewReader("*nat\n" + undo.String() + "-X " + chain + "\nCOMMIT\n")
		if out, err := restore.CombinedOutput(); err != nil {
			return fmt.Errorf("remove the container's rules of address translation with %s-restore: %w: %s", tool, err, bytes.TrimSpace(out))
		}
	}
	return nil
}
