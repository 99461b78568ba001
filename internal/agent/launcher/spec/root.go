package spec

import (
	"encoding/json"
	"errors"
	"strconv"
)

// RootFD is the number of the descriptor under which a helper holds the mount namespace of its container's own root.
const RootFD = 200

// RootNamespace is where the helper with this number holds it, as seen by others.
func RootNamespace(pid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(RootFD)
}

// UserFD is the number of the descriptor under which a helper holds the user namespace of its container.
const UserFD = 201

// UserNamespace is where the helper with this number holds it, as seen by others.
func UserNamespace(pid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(UserFD)
}

// Root is a root file system of the container's own: an image. The process sees it, the helper does not.
type Root struct {
	Layers []string `json:"layers"` // directories, the uppermost first
	// Scratch is a directory of the container's own: what it writes lies below upper.
	Scratch string `json:"scratch"`
	// ReadOnly: nothing can be written but to volumes, /tmp and /run.
	ReadOnly bool `json:"read_only,omitempty"`
	// Mounts are made below the root in order, after /proc, /sys and /dev. Their targets are made where they are missing.
	Mounts []Mount `json:"mounts,omitempty"`
	// Devices are those that its /dev has beside the harmless ones.
	Devices []Device `json:"devices,omitempty"`
	// WorkingDir is made when it is missing.
	WorkingDir string `json:"working_dir,omitempty"`
	// Masked paths can't be seen, ReadOnlyPaths not be written.
	Masked        []string `json:"masked,omitempty"`
	ReadOnlyPaths []string `json:"read_only_paths,omitempty"`
	// Runtime is the OCI runtime that makes the container; empty: the helper itself.
	Runtime string `json:"runtime,omitempty"`
	// OCI is the runtime's configuration, to which the helper adds the process's command, environment, directory and user,
	// the root's path and Mounts.
	OCI json.RawMessage `json:"oci,omitempty"`
	// Sandbox is where the container sees its sandbox.
	Sandbox string `json:"sandbox"`
	// Entrypoint and Cmd are the image's, for a command that does not say all.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// Device is a device file; Name is its path below /dev.
type Device struct {
	Name  string `json:"name"`
	Block bool   `json:"block,omitempty"`
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Mode  uint32 `json:"mode"`
}

// Compose makes what is executed of a command and of what an image says, as Mesos' docker/runtime isolator does:
//
//	shell, value               /bin/sh -c value
//	value                      value, with the arguments as argv
//	neither, entry point       the entry point and after it the arguments, or without any the image's cmd
//	neither, cmd only          cmd, whose first is the program; arguments take the place of the others
func (r *Root) Compose(shell bool, value string, args []string) (path string, argv []string, err error) {
	switch {
	case shell && value == "":
		return "", nil, errors.New("the command has no value, which a shell command needs")
	case shell:
		return "/bin/sh", []string{"sh", "-c", value}, nil
	case value != "":
		if len(args) == 0 {
			args = []string{value}
		}
		return value, args, nil
	case len(r.Entrypoint) > 0:
		if len(args) == 0 {
			args = r.Cmd
		}
		return r.Entrypoint[0], append(append([]string(nil), r.Entrypoint...), args...), nil
	case len(r.Cmd) > 0:
		if len(args) == 0 {
			args = r.Cmd[1:]
		}
		return r.Cmd[0], append([]string{r.Cmd[0]}, args...), nil
	}
	return "", nil, errors.New("neither the command nor the image says what to execute: the command has no value, the image no entry point and no cmd")
}
