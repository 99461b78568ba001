package projectquota

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of quotactl(2) and what they take (linux/dqblk_xfs.h). ext4 knows them too.
const (
	getState = 'X'<<8 + 5
	getQuota = 'X'<<8 + 3
	setLimit = 'X'<<8 + 4

	projects = 2 // the type of quota

	accounted, enforced = 1 << 4, 1 << 5 // flags of the state, of projects

	kindProject            = 2     // a flag of an account
	softBlocks, hardBlocks = 4, 8  // bits of what is to be set
	block                  = 512   // the unit of sizes
	stateSize              = 80    // of struct fs_quota_stat
	inherit                = 0x200 // FS_XFLAG_PROJINHERIT
	noNumber               = 1<<32 - 1
)

// account is struct fs_disk_quota.
type account struct {
	version                int8
	flags                  int8
	fields                 uint16
	id                     uint32
	blocksHard, blocksSoft uint64
	filesHard, filesSoft   uint64
	blocks, files          uint64
	filesTimer             int32
	blocksTimer            int32
	filesWarns, blocksWarn uint16
	_                      [4]byte
	realtime               [3]uint64
	realtimeTimer          int32
	realtimeWarns          uint16
	_                      [10]byte
}

// The kernel takes and gives exactly so much.
var (
	_ [112]byte = [unsafe.Sizeof(account{})]byte{}
	_ [28]byte  = [unsafe.Sizeof(attributes{})]byte{}
)

// quotactl asks the file system that an open file lies on.
func (s *Store) quotactl(command uint32, id uint32, arg unsafe.Pointer) error {
	cmd := uintptr(command<<8 | projects)
	if s.device == "" {
		_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, s.dir.Fd(), cmd, uintptr(id), uintptr(arg), 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.ENOSYS {
			return errno
		}
		// Before Linux 5.14 there is only the call that names the device.
		dev, err := device(s.dev)
		if err != nil {
			return err
		}
		s.device = dev
	}
	name, err := unix.BytePtrFromString(s.device)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, cmd, uintptr(unsafe.Pointer(name)), uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// device finds the block device of a file system in the table of mounts.
func device(dev uint64) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	want := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		pre, post := strings.Fields(before), strings.Fields(after)
		if len(pre) > 2 && pre[2] == want && len(post) > 1 && strings.HasPrefix(post[1], "/") {
			return post[1], nil
		}
	}
	return "", errors.Join(fmt.Errorf("no mounted device has the number %s", want), sc.Err())
}

// attributes is struct fsxattr (linux/fs.h).
type attributes struct {
	flags, extent, extents, project, copyExtent uint32
	_                                           [8]byte
}

// The calls FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.
const (
	ioctlRead  = 2<<30 | unsafe.Sizeof(attributes{})<<16 | 'X'<<8 | 31
	ioctlWrite = 1<<30 | unsafe.Sizeof(attributes{})<<16 | 'X'<<8 | 32
)

func (a *attributes) ioctl(fd int, call uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), call, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return errno
	}
	return nil
}
