/* crc.c - the kernels' checksum, compiled into the load generator: v2 frames carry it. */
#include "../kernels/crc32c.c"
