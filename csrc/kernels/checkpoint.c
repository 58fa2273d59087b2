/* checkpoint.c - an image of the state at one moment, streamed while apply goes on.
 *
 *     image: | magic u32 | version u32 | UM_REGIONS u32 | 0 u32 | used u64 x 17 | region 0 | region 1 | ... |
 *             '---------------------- header, 152 bytes -----------------------'  bytes in use, packed
 *
 * Copy on write in chunks of 4096 bytes: begin remembers how much of every region is in use; from then on a
 * change to such bytes (um__touch) first saves the chunk, unless it is saved already or has been streamed. The
 * reader takes a saved chunk where there is one and the live bytes otherwise. Bytes past the remembered end
 * belong to the future and cost nothing. While no checkpoint is active, the price is one test per change.
 *
 * ckpt_region is the stretch being streamed: 0 the header, r + 1 region r; ckpt_pos the position in it.
 */
#include "um__apply.h"

#define MAGIC 0x4B434D55U   /* "UMCK" */
#define VERSION 3   /* 1: series did not name their plain bucket; 2: fingerprints did not begin with a time */
typedef struct { uint32_t magic, version, regions, reserved; uint64_t used[UM_REGIONS]; } image_header;

static uint64_t chunks_in(uint64_t bytes) {
    return (bytes + UM_COW_CHUNK_BYTES - 1) / UM_COW_CHUNK_BYTES;
}
static uint32_t *saved_number(const um_state *st, uint32_t region, uint64_t chunk) {
    return (uint32_t *)(void *)st->cow_map.base + st->ckpt_chunk_base[region] + chunk;
}

uint64_t um_ckpt_begin(um_state *st) {
    uint64_t total = sizeof(image_header), chunks = 0;
    for (uint32_t region = 0; region < UM_REGIONS; region++) {
        st->ckpt_used[region] = st->region[region].used;
        st->ckpt_chunk_base[region] = chunks;
        total += st->ckpt_used[region];
        chunks += chunks_in(st->ckpt_used[region]);
    }
    st->cow_map.used = chunks * sizeof(uint32_t);
    memset(st->cow_map.base, 0, st->cow_map.used);
    st->cow.used = 0;
    st->ckpt_region = 0;
    st->ckpt_pos = 0;
    st->ckpt_active = 1;
    return total;
}

void um__cow_save(um_state *st, uint32_t region, uint64_t offset, uint64_t len) {
    const uint64_t in_use = st->ckpt_used[region];
    const uint64_t end = offset + len < in_use ? offset + len : in_use;
    if (offset >= end || st->ckpt_region > region + 1) return;
    for (uint64_t chunk = offset / UM_COW_CHUNK_BYTES; chunk * UM_COW_CHUNK_BYTES < end; chunk++) {
        const uint64_t first = chunk * UM_COW_CHUNK_BYTES;
        const uint64_t past = in_use - first < UM_COW_CHUNK_BYTES ? in_use : first + UM_COW_CHUNK_BYTES;
        if (st->ckpt_region == region + 1 && st->ckpt_pos >= past) continue;
        uint32_t *saved = saved_number(st, region, chunk);
        if (*saved != 0) continue;
        memcpy(st->cow.base + st->cow.used, st->region[region].base + first, past - first);
        *saved = (uint32_t)(st->cow.used / UM_COW_CHUNK_BYTES) + 1;
        st->cow.used += UM_COW_CHUNK_BYTES;
    }
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t read_header(um_state *st, uint8_t *out, uint64_t cap) {
    image_header header = {.magic = MAGIC, .version = VERSION, .regions = UM_REGIONS};
    memcpy(header.used, st->ckpt_used, sizeof header.used);
    const uint64_t len = least(cap, sizeof header - st->ckpt_pos);
    memcpy(out, (const uint8_t *)&header + st->ckpt_pos, len);
    return len;
}

/* Up to the end of the chunk that ckpt_pos lies in. */
static uint64_t read_chunk(um_state *st, uint32_t region, uint8_t *out, uint64_t cap) {
    const uint64_t chunk = st->ckpt_pos / UM_COW_CHUNK_BYTES, within = st->ckpt_pos % UM_COW_CHUNK_BYTES;
    const uint64_t len = least(cap, least(UM_COW_CHUNK_BYTES - within, st->ckpt_used[region] - st->ckpt_pos));
    const uint32_t saved = *saved_number(st, region, chunk);
    const uint8_t *from = saved != 0 ? st->cow.base + (uint64_t)(saved - 1) * UM_COW_CHUNK_BYTES + within
                                     : st->region[region].base + st->ckpt_pos;
    memcpy(out, from, len);
    return len;
}

uint64_t um_ckpt_read(um_state *st, uint8_t *out, uint64_t cap) {
    uint64_t produced = 0;
    while (st->ckpt_active && st->ckpt_region <= UM_REGIONS) {
        const uint64_t stretch = st->ckpt_region == 0 ? sizeof(image_header) : st->ckpt_used[st->ckpt_region - 1];
        if (st->ckpt_pos == stretch) {
            st->ckpt_region++;
            st->ckpt_pos = 0;
            continue;
        }
        if (produced == cap) break;
        const uint64_t len = st->ckpt_region == 0 ? read_header(st, out + produced, cap - produced)
                                                  : read_chunk(st, st->ckpt_region - 1, out + produced, cap - produced);
        st->ckpt_pos += len;
        produced += len;
    }
    return produced;
}

void um_ckpt_end(um_state *st) {
    st->ckpt_active = 0;
    st->cow.used = 0;
}

/* ---- loading ---- */

/* The header's `used` values are gathered in ckpt_used, byte by byte if they come that way. */
static uint32_t load_header(um_state *st, uint64_t pos, uint8_t byte) {
    const image_header expected = {.magic = MAGIC, .version = VERSION, .regions = UM_REGIONS};
    const uint64_t fixed = sizeof expected - sizeof expected.used;
    if (pos < fixed) return byte != ((const uint8_t *)&expected)[pos];
    ((uint8_t *)st->ckpt_used)[pos - fixed] = byte;
    if (pos + 1 < sizeof expected) return 0;
    for (uint32_t region = 0; region < UM_REGIONS; region++) {
        const uint64_t used = st->ckpt_used[region];
        if (used > st->region[region].reserved || used % um__region_bytes(region) != 0) return 1;
        st->region[region].used = 0;
    }
    return st->ckpt_used[UM_R_META] != sizeof(um_meta) || st->ckpt_used[UM_R_VALUES] == 0;
}

uint32_t um_ckpt_load(um_state *st, uint64_t stream_off, const uint8_t *data, uint64_t len) {
    uint64_t begin = sizeof(image_header);
    for (; len != 0 && stream_off < begin; stream_off++, data++, len--) {
        if (load_header(st, stream_off, *data) != 0) return 1;
    }
    for (uint32_t region = 0; region < UM_REGIONS && len != 0; region++) {
        const uint64_t size = st->ckpt_used[region];
        if (stream_off < begin + size) {
            const uint64_t part = least(len, begin + size - stream_off);
            memcpy(st->region[region].base + (stream_off - begin), data, part);
            st->region[region].used = stream_off - begin + part;
            stream_off += part;
            data += part;
            len -= part;
        }
        begin += size;
    }
    return len != 0;
}
