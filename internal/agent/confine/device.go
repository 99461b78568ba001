package confine

import (
	"errors"
	"fmt"
	"path"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Device is one that containers may use.
type Device struct {
	// Path of the device file; empty when it is given by numbers.
	Path string
	// Type is 'c', 'b' or 'a' (all); Major and Minor are -1 for all. Unknown (0) until the file has been looked at.
	Type         byte
	Major, Minor int64
	// Access has some of r, w and m (make the file).
	Access string
	// Mode are the device file's permissions. Unknown until it has been looked at.
	Mode uint32
}

// Rule writes the device as the kernel's whitelist does: "c 1:3 rwm".
func (d Device) Rule() string {
	n := func(v int64) string {
		if v < 0 {
			return "*"
		}
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%c %s:%s %s", d.Type, n(d.Major), n(d.Minor), d.Access)
}

// HarmlessDevices are what every container may use when devices are limited (Mesos' cgroups/devices): making any file,
// terminals, null, zero, full, random, and tun.
func HarmlessDevices() []Device {
	return []Device{
		{Type: 'c', Major: -1, Minor: -1, Access: "m"},
		{Type: 'b', Major: -1, Minor: -1, Access: "m"},
		{Type: 'c', Major: 5, Minor: 1, Access: "rwm"},    // console
		{Type: 'c', Major: 4, Minor: 0, Access: "rwm"},    // tty0
		{Type: 'c', Major: 4, Minor: 1, Access: "rwm"},    // tty1
		{Type: 'c', Major: 136, Minor: -1, Access: "rwm"}, // pts
		{Type: 'c', Major: 5, Minor: 2, Access: "rwm"},    // ptmx
		{Type: 'c', Major: 10, Minor: 200, Access: "rwm"}, // net/tun
		{Type: 'c', Major: 1, Minor: 3, Access: "rwm"},    // null
		{Type: 'c', Major: 1, Minor: 5, Access: "rwm"},    // zero
		{Type: 'c', Major: 1, Minor: 7, Access: "rwm"},    // full
		{Type: 'c', Major: 5, Minor: 0, Access: "rwm"},    // tty
		{Type: 'c', Major: 1, Minor: 9, Access: "rwm"},    // urandom
		{Type: 'c', Major: 1, Minor: 8, Access: "rwm"},    // random
	}
}

// DevicesOf reads --allowed_devices (DeviceWhitelist).
func DevicesOf(m *mesosv1.DeviceWhitelist) ([]Device, error) {
	var out []Device
	for _, a := range m.GetAllowedDevices() {
		d := Device{Path: a.GetDevice().GetPath()}
		if d.Path != path.Clean(d.Path) || !strings.HasPrefix(d.Path, "/dev/") {
			return nil, fmt.Errorf("device %q: its path must lie below /dev", d.Path)
		}
		for _, x := range []struct {
			on   bool
			char string
		}{{a.GetAccess().GetRead(), "r"}, {a.GetAccess().GetWrite(), "w"}, {a.GetAccess().GetMknod(), "m"}} {
			if x.on {
				d.Access += x.char
			}
		}
		if d.Access == "" {
			return nil, errors.New("device " + d.Path + ": no access is given: set read, write or mknod")
		}
		out = append(out, d)
	}
	return out, nil
}
