; Three ways to exchange two registers.
;
;   cpusim run examples/swap.s
;
; A constant enters through the accumulator: LOADI puts it there, POP copies it to a
; register. (PUSH goes the other way, from a register to the accumulator.)

LOADI 0x0f
POP A
LOADI 0xf0
POP B           ; A = 15, B = 240

; 1. The CPU has an instruction for it.
SWAP A B        ; A = 240, B = 15

; 2. Through the accumulator.
PUSH A          ; ACC = A
SWAP B          ; ACC <-> B
POP A           ; A = ACC: back to A = 15, B = 240

; 3. With nothing but exclusive or, as on CPUs without a spare register.
XOR A B         ; A = a ^ b
XOR B A         ; B = b ^ (a ^ b) = a
XOR A B         ; A = (a ^ b) ^ a = b: A = 240, B = 15 again
HLT
