; Sort four registers without a single comparison or jump.
;
;   cpusim run examples/sort.s
;
; Subtraction stops at 0, so `SUB X Y J` leaves in J how far X is above Y, and 0 if it is
; not. Taking J from X and giving it to Y puts the two in order. Five such exchanges, a
; sorting network, put four registers in order.

LOADI 201
POP A
LOADI 17
POP B
LOADI 99
POP C
LOADI 4
POP D

SUB A B J       ; order A and B
SUB A J
ADD B J
SUB C D J       ; order C and D
SUB C J
ADD D J
SUB A C J       ; the smallest of all to A
SUB A J
ADD C J
SUB B D J       ; the largest of all to D
SUB B J
ADD D J
SUB B C J       ; the two in the middle: A..D = 4, 17, 99, 201
SUB B J
ADD C J
HLT
