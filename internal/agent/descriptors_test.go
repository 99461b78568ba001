package agent

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestInheritedDescriptorsStayHere(t *testing.T) {
	t.Parallel()
	var fds [2]int
	if err := unix.Pipe2(fds[:], 0); err != nil { // as a parent would hand it down
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := keepDescriptors(); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited: %d, %v", fd, flags, err)
		}
	}
}
