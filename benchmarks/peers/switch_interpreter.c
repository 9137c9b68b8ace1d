/* A straightforward switch interpreter of the CPU: the peer that the compiled kernels are
 * measured against. Same input, same output: the records of every program, where they
 * start, and why each run stopped.
 *
 *   gcc -O3 -march=native -shared -fPIC -o switch_interpreter.so switch_interpreter.c
 */
#include <stdint.h>
#include <string.h>

enum { HALTED, STEP_LIMIT, ILLEGAL };
enum {
    HLT, CLR, INC, DEC, SHL, SHR, ROL, ROR, NOT, PUSH, POP, LOADI, SWAP,
    ADD, SUB, MUL, DIV, AND, OR, XOR, MOV
};

typedef struct {
    uint8_t pc, acc, ir[4], reg[10];
} State;

static uint8_t add(uint8_t a, uint8_t b) { int r = a + b; return r > 255 ? 255 : r; }
static uint8_t sub(uint8_t a, uint8_t b) { return a > b ? a - b : 0; }
static uint8_t mul(uint8_t a, uint8_t b) { int r = a * b; return r > 255 ? 255 : r; }
static uint8_t quotient(uint8_t a, uint8_t b) { return b ? a / b : 255; }
static uint8_t and_(uint8_t a, uint8_t b) { return a & b; }
static uint8_t or_(uint8_t a, uint8_t b) { return a | b; }
static uint8_t xor_(uint8_t a, uint8_t b) { return a ^ b; }

/* The number of operands if they are registers without a gap, or -1. */
static inline int registers(const uint8_t *ir)
{
    if (ir[1] > 10 || ir[2] > 10 || ir[3] > 10) return -1;
    if (!ir[1]) return ir[2] || ir[3] ? -1 : 0;
    if (!ir[2]) return ir[3] ? -1 : 1;
    return ir[3] ? 3 : 2;
}

#define UNARY(expression) {                                             \
        if (n != 0 && n != 1) return ILLEGAL;                           \
        uint8_t *p = n ? &s.reg[x - 1] : &s.acc, v = *p;                \
        (void)v;                                                        \
        *p = (expression);                                              \
        break;                                                          \
    }
#define BINARY(function) {                                              \
        if (n == 1) s.acc = function(s.acc, s.reg[x - 1]);              \
        else if (n == 2) s.reg[x - 1] = function(s.reg[x - 1], s.reg[y - 1]); \
        else if (n == 3) s.reg[z - 1] = function(s.reg[x - 1], s.reg[y - 1]); \
        else return ILLEGAL;                                            \
        break;                                                          \
    }

/* Run one program; `*out` moves past the records written. */
static int run(const uint8_t *memory, const uint8_t *state, int64_t max_steps, State **out)
{
    State s;
    memcpy(&s, state, sizeof s);
    *(*out)++ = s;
    for (int64_t step = 0; step < max_steps; step++) {
        memcpy(s.ir, memory + 4 * s.pc, 4);
        if (s.pc < 255) s.pc++;
        *(*out)++ = s;
        uint8_t x = s.ir[1], y = s.ir[2], z = s.ir[3];
        int n = registers(s.ir);
        switch (s.ir[0]) {
        case HLT: return n == 0 ? HALTED : ILLEGAL;
        case CLR: UNARY(0)
        case INC: UNARY(v < 255 ? v + 1 : 255)
        case DEC: UNARY(v ? v - 1 : 0)
        case SHL: UNARY(v << 1)
        case SHR: UNARY(v >> 1)
        case ROL: UNARY(v << 1 | v >> 7)
        case ROR: UNARY(v >> 1 | v << 7)
        case NOT: UNARY(~v)
        case PUSH:
            if (n != 1) return ILLEGAL;
            s.acc = s.reg[x - 1];
            break;
        case POP:
            if (n != 1) return ILLEGAL;
            s.reg[x - 1] = s.acc;
            break;
        case LOADI:
            if (y || z) return ILLEGAL;
            s.acc = x;
            break;
        case SWAP: {
            if (n != 1 && n != 2) return ILLEGAL;
            uint8_t *a = n == 1 ? &s.acc : &s.reg[x - 1];
            uint8_t *b = n == 1 ? &s.reg[x - 1] : &s.reg[y - 1];
            uint8_t old = *a;
            *a = *b;
            *b = old;
            break;
        }
        case ADD: BINARY(add)
        case SUB: BINARY(sub)
        case MUL: BINARY(mul)
        case DIV: BINARY(quotient)
        case AND: BINARY(and_)
        case OR: BINARY(or_)
        case XOR: BINARY(xor_)
        case MOV:
            if (n != 2) return ILLEGAL;
            s.reg[x - 1] = s.reg[y - 1];
            break;
        default: return ILLEGAL;
        }
    }
    return STEP_LIMIT;
}

/* memories: uint8[count][1024]; states: uint8[count][16]; out: room for all records;
 * offsets: int64[count + 1], in records; stops: uint8[count]. */
void run_all(const uint8_t *memories, const uint8_t *states, int64_t count, int64_t max_steps,
             uint8_t *out, int64_t *offsets, uint8_t *stops)
{
    State *at = (State *)out;
    offsets[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        stops[i] = run(memories + 1024 * i, states + 16 * i, max_steps, &at);
        offsets[i + 1] = at - (State *)out;
    }
}
