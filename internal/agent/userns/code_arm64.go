package userns

// machine is the processor's number in an executable (EM_AARCH64).
const machine = 183
