// Package vmtest runs tests of other packages in a virtual machine: on Debian's own kernel instead of the one of the machine
// that builds, where cgroups are a unified hierarchy and disks have file systems with quotas.
//
// The machine is qemu, with KVM where there is one. It boots the kernel that test/deps.sh has unpacked, with an initramfs that is
// made here: the test binaries, the programs of the host that they call with the libraries of these, and the kernel's modules.
// It has no network, and nothing of the host's files but copies. The initramfs and the disks are files in memory that only qemu
// holds, and qemu ends with the process that started it, so nothing is left behind however a test ends.
//
// Tests of packages call Run. What runs inside first is package main in guest. In the machine the variable Inside is set: a test
// that finds it must not be skipped for want of what the machine has.
package vmtest
