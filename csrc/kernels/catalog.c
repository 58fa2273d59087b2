/* catalog.c - from a metric's code to its id.
 *
 * Python packs the metrics, um_catalog_index builds the table of codes beside them: open addressing with
 * linear probing, 8192 slots for at most 4096 metrics, so never more than half full. Deleted metrics keep
 * their id and are not in the table.
 */
#include "um__wire.h"

static uint32_t slot_of(const uint8_t *code, uint32_t len) { return (uint32_t)um_hash64(code, len, 0) & (UM_CODE_SLOTS - 1); }

void um_catalog_index(um_catalog *catalog) {
    memset(catalog->slots, 0, sizeof catalog->slots);
    if (catalog->metric_count > UM_METRICS_MAX) catalog->metric_count = UM_METRICS_MAX;
    for (uint32_t id = 0; id < catalog->metric_count; id++) {
        const um_metric *metric = &catalog->metrics[id];
        if (!metric->alive || metric->code_len == 0 || metric->code_len > UM_CODE_BYTES_MAX) continue;
        uint32_t slot = slot_of((const uint8_t *)metric->code, metric->code_len);
        while (catalog->slots[slot] != 0) slot = (slot + 1) & (UM_CODE_SLOTS - 1);
        catalog->slots[slot] = (uint16_t)(id + 1);
    }
}

uint32_t um_catalog_find(const um_catalog *catalog, const uint8_t *code, uint32_t len) {
    if (len == 0 || len > UM_CODE_BYTES_MAX) return UM_NONE;
    for (uint32_t slot = slot_of(code, len); catalog->slots[slot] != 0; slot = (slot + 1) & (UM_CODE_SLOTS - 1)) {
        uint32_t id = catalog->slots[slot] - 1u;
        const um_metric *metric = &catalog->metrics[id];
        if (metric->code_len == len && memcmp(metric->code, code, len) == 0) return id;
    }
    return UM_NONE;
}
