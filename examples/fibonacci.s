; Fibonacci numbers, until a byte can hold no more.
;
;   cpusim run examples/fibonacci.s
;
; The CPU has no jumps, so every sum is written out. `ADD X Y Z` means Z = X + Y, and
; sums stop at 255 instead of wrapping round: 144 + 233 = 377 shows as 255.

INC A           ; A = 1 (every register starts at 0)
INC B           ; B = 1
ADD A B C       ; 2
ADD B C D       ; 3
ADD C D E       ; 5
ADD D E F       ; 8
ADD E F G       ; 13
ADD F G H       ; 21
ADD G H I       ; 34
ADD H I J       ; 55
ADD I J A       ; 89   the registers are full, so start over at A
ADD J A B       ; 144
ADD A B C       ; 233
ADD B C D       ; 377 does not fit: 255
HLT
