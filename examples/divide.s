; Quotient and remainder of 200 / 7, and what division by zero gives.
;
;   cpusim run examples/divide.s
;
; There is no remainder instruction: divide, multiply back, subtract.

LOADI 200
POP A           ; the dividend
LOADI 7
POP B           ; the divisor

DIV A B C       ; C = 200 / 7 = 28, rounded down
MUL B C D       ; D = 7 * 28 = 196
SUB A D E       ; E = 200 - 196 = 4, the remainder

; The proof: quotient * divisor + remainder is the dividend again.
ADD D E F       ; F = 200
XOR F A         ; F = 0: no bit differs

; Dividing by zero is no error: it gives 255, the largest byte.
DIV A F G       ; G = 200 / 0 = 255
HLT
