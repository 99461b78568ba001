// Package paper is what vmtest tells the first process of its virtual machine, and what that one answers. Both call it.
package paper

import "time"

// File is where the paper lies in the machine.
const File = "/paper.json"

// Port is the name of the serial port that leads out.
const Port = "orchestrator"

// Paper is all that a machine has to do.
type Paper struct {
	Modules []string // files, in the order of their loading
	Disks   []Disk
	// Delegated runs the commands in a group of a cgroup namespace, as in a container with one of its own; else in a service's
	// group below the root, as systemd would.
	Delegated bool
	// Version1 mounts the hierarchies of cgroups v1, with all controllers, instead of the unified one.
	Version1 bool
	Commands []Command
	Limit    time.Duration // for all of them
}

// Disk is a virtual disk to be formatted and mounted.
type Disk struct {
	Device  string
	Format  []string // command, to which the device is added; none: it is left alone
	Type    string   // of the file system
	Options string
	At      string
}

// Command is one process to run.
type Command struct {
	Name string
	Argv []string
	Dir  string
	Env  []string
}

// Message is one line that comes out.
type Message struct {
	Command int
	Output  []byte  `json:",omitempty"`
	Ended   bool    `json:",omitempty"`
	Exit    int     `json:",omitempty"`
	Seconds float64 `json:",omitempty"`
	Error   string  `json:",omitempty"` // of the machine itself: nothing more is to be expected
	Done    bool    `json:",omitempty"`
}
