package userns

// machine is the processor's number in an executable (EM_X86_64).
const machine = 62
