#include "textflag.h"

// enter is all of a program, and no function of this one: it is copied. It carries out the system calls at tableAddr, each a
// number and three arguments, until the number is negative; then it executes the descriptor that follows, with its own
// arguments and environment. An error goes to SayFD as one byte.
TEXT ·enter(SB), NOSPLIT|NOFRAME, $0-0
	MOVD RSP, R20          // the number of arguments, them, 0, the environment
	MOVD $0x420000, R19    // tableAddr
next:
	MOVD 0(R19), R8
	TBNZ $63, R8, exec
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	SVC
	TBNZ $63, R0, fail
	ADD  $32, R19
	JMP  next
exec:
	MOVD 8(R19), R0
	MOVD $0x428001, R1     // a zero: no path below the descriptor
	ADD  $8, R20, R2
	MOVD 0(R20), R3
	ADD  R3<<3, R20, R3
	ADD  $16, R3
	MOVD $0x1000, R4       // AT_EMPTY_PATH
	MOVD $281, R8          // execveat
	SVC
fail:
	NEG  R0, R0
	MOVD $0x428000, R1
	MOVB R0, 0(R1)
	MOVD $4, R0            // SayFD
	MOVD $1, R2
	MOVD $64, R8           // write
	SVC
	MOVD $127, R0
	MOVD $94, R8           // exit_group
	SVC
	BRK

// func enterAddress() *byte
TEXT ·enterAddress(SB), NOSPLIT, $0-8
	MOVD $·enter(SB), R0
	MOVD R0, ret+0(FP)
	RET
