#include "textflag.h"

// enter is all of a program, and no function of this one: it is copied. It carries out the system calls at tableAddr, each a
// number and three arguments, until the number is negative; then it executes the descriptor that follows, with its own
// arguments and environment. An error goes to SayFD as one byte.
TEXT ·enter(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ SP, R12           // the number of arguments, them, 0, the environment
	MOVQ $0x420000, BX     // tableAddr
next:
	MOVQ 0(BX), AX
	TESTQ AX, AX
	JMI  exec
	MOVQ 8(BX), DI
	MOVQ 16(BX), SI
	MOVQ 24(BX), DX
	SYSCALL
	TESTQ AX, AX
	JMI  fail
	ADDQ $32, BX
	JMP  next
exec:
	MOVQ 8(BX), DI
	MOVQ $0x428001, SI     // a zero: no path below the descriptor
	LEAQ 8(R12), DX
	MOVQ 0(R12), AX
	LEAQ 16(R12)(AX*8), R10
	MOVQ $0x1000, R8       // AT_EMPTY_PATH
	MOVQ $322, AX          // execveat
	SYSCALL
fail:
	NEGQ AX
	MOVB AX, 0x428000
	MOVQ $4, DI            // SayFD
	MOVQ $0x428000, SI
	MOVQ $1, DX
	MOVQ $1, AX            // write
	SYSCALL
	MOVQ $127, DI
	MOVQ $231, AX          // exit_group
	SYSCALL
	INT  $3

// func enterAddress() *byte
TEXT ·enterAddress(SB), NOSPLIT, $0-8
	MOVQ $·enter(SB), AX
	MOVQ AX, ret+0(FP)
	RET
