/* mutate.h - a deterministic mutation fuzzer in plain C: a fuzzer is a target, some valid inputs, and this.
 *
 * A fuzzer defines
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)   what libFuzzer calls too
 *     uint64_t example(uint64_t number, uint8_t *out)                a valid input, at most INPUT_BYTES_MAX long
 * and includes this file last. `fuzz_x [iterations [seed]]` mutates examples and always does the same for the same
 * arguments; the number of the iteration that fails is printed when the target dies. With -DUM_LIBFUZZER there is
 * no main: link with -fsanitize=fuzzer instead.
 */
#ifndef UM_LIBFUZZER
#include <signal.h>
#include <unistd.h>

static uint64_t luck;
static uint64_t throw_dice(uint64_t below) {
    luck ^= luck << 13;
    luck ^= luck >> 7;
    luck ^= luck << 17;
    return luck % below;
}

static uint64_t mutate(uint8_t *data, uint64_t len) {
    static const uint64_t edges[] = {0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1ULL << 63, ~0ULL};
    for (uint64_t n = throw_dice(6); n > 0 && len > 0; n--) {
        uint64_t at = throw_dice(len), left = len - at, span = 1 + throw_dice(left < 64 ? left : 64);
        switch (throw_dice(7)) {
        case 0: data[at] ^= (uint8_t)(1u << throw_dice(8)); break;
        case 1: data[at] = (uint8_t)throw_dice(256); break;
        case 2: {                                                   /* a number at the edge of its range */
            uint64_t value = edges[throw_dice(sizeof edges / sizeof *edges)], width = 1ULL << throw_dice(4);
            memcpy(data + at, &value, width < left ? width : left);
            break;
        }
        case 3: memmove(data + at, data + throw_dice(len - span + 1), span <= left ? span : left); break;
        case 4: memset(data + at, (int)throw_dice(2) * 255, span); break;
        case 5:                                                     /* cut a piece out */
            memmove(data + at, data + at + span, left - span);
            len -= span;
            break;
        default:                                                    /* double a piece */
            if (len + span > INPUT_BYTES_MAX) break;
            memmove(data + at + span, data + at, left);
            len += span;
        }
    }
    return len;
}

static uint64_t iteration;
static void say_which(int signal_number) {
    char line[64];
    int len = snprintf(line, sizeof line, "\nfuzzer died in iteration %llu\n", (unsigned long long)iteration);
    if (write(2, line, (size_t)len) < 0) _exit(2);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int main(int argc, char **argv) {
    static uint8_t input[INPUT_BYTES_MAX];
    uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 10) : 200000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    signal(SIGABRT, say_which);
    for (iteration = 0; iteration < iterations; iteration++) {
        luck = (seed * 0x9E3779B97F4A7C15ULL) ^ ((iteration + 1) * 0xD1342543DE82EF95ULL);
        for (int n = 0; n < 4; n++) throw_dice(2);
        uint64_t len = example(throw_dice(1u << 20), input);
        len = mutate(input, len);
        uint8_t *exact = malloc(len ? len : 1);                     /* so that the sanitizer sees its end */
        if (exact == NULL) return 2;
        memcpy(exact, input, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    printf("%llu iterations, seed %llu: ok\n", (unsigned long long)iterations, (unsigned long long)seed);
    return 0;
}
#endif
