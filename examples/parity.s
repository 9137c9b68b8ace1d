; Is the number of one bits in a byte odd? And how many are there?
;
;   cpusim run examples/parity.s
;
; Fold the byte onto itself: x ^= x >> 4, x ^= x >> 2, x ^= x >> 1. The lowest bit is then
; the exclusive or of all eight.

LOADI 0b10110100
POP A           ; the byte in question: four one bits

; Parity, in B.
MOV B A
MOV C A
SHR C           ; one bit a shift
SHR C
SHR C
SHR C
XOR B C         ; x ^= x >> 4
MOV C B
SHR C
SHR C
XOR B C         ; x ^= x >> 2
MOV C B
SHR C
XOR B C         ; x ^= x >> 1
LOADI 1
POP D           ; D = 1: the mask of the lowest bit
AND B D         ; B = 0: an even number

; The count, in E: add neighbours in pairs, then in fours, then in eights.
LOADI 0b01010101
POP F
MOV G A
SHR G
AND G F         ; the upper bit of each pair
AND F A         ; the lower bit of each pair
ADD F G E       ; E: four counts of two bits
LOADI 0b00110011
POP F
MOV G E
SHR G
SHR G
AND G F
AND F E
ADD F G E       ; E: two counts of four bits
LOADI 0b00001111
POP F
MOV G E
SHR G
SHR G
SHR G
SHR G
AND F E
ADD F G E       ; E = 4
HLT
