; A checksum of the registers A..I, compared with the one that J holds.
;
;   cpusim run examples/checksum.s --random-state 7
;   cpusim run examples/checksum.s --set A=1,B=2,C=3
;
; Rotate, then exclusive or: unlike a plain sum, it notices bytes that changed places.
; `OP R` works on the accumulator: XOR A means ACC = ACC ^ A.

CLR             ; ACC = 0
XOR A
ROL
XOR B
ROL
XOR C
ROL
XOR D
ROL
XOR E
ROL
XOR F
ROL
XOR G
ROL
XOR H
ROL
XOR I           ; ACC = the checksum
XOR J           ; ACC = 0 if J holds the same one
HLT
