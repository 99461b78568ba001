package executor

import "syscall"

// signalName gives a signal's name as strsignal does on Linux: it is part of what frameworks read in a status message.
func signalName(s syscall.Signal) string {
	if n, ok := signalNames[s]; ok {
		return n
	}
	return s.String()
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGHUP: "Hangup", syscall.SIGINT: "Interrupt", syscall.SIGQUIT: "Quit", syscall.SIGILL: "Illegal instruction",
	syscall.SIGTRAP: "Trace/breakpoint trap", syscall.SIGABRT: "Aborted", syscall.SIGBUS: "Bus error",
	syscall.SIGFPE: "Floating point exception", syscall.SIGKILL: "Killed", syscall.SIGUSR1: "User defined signal 1",
	syscall.SIGSEGV: "Segmentation fault", syscall.SIGUSR2: "User defined signal 2", syscall.SIGPIPE: "Broken pipe",
	syscall.SIGALRM: "Alarm clock", syscall.SIGTERM: "Terminated", syscall.SIGXCPU: "CPU time limit exceeded",
	syscall.SIGXFSZ: "File size limit exceeded", syscall.SIGSYS: "Bad system call", syscall.SIGVTALRM: "Virtual timer expired",
	syscall.SIGPROF: "Profiling timer expired", syscall.SIGIO: "I/O possible", syscall.SIGPWR: "Power failure",
}
