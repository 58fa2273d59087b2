/* events.c - listing the stored events of one account, as they stand in the log.
 *
 * The journal is the only copy of an event: the list is read from verified records, leaving out rows that apply
 * did not store (SKIPS) and rows that it has not seen yet (seq >= end_seq). The caller feeds records in log
 * order; when `limit` or the room in `out` ends the list early, it goes on with after_seq = the last seq it got.
 */
#include "um__log.h"
#include "um__state.h"

typedef struct {
    um_events_spec spec;
    const uint8_t *text;
    const um_state *st;
    um_arena *out;
    uint64_t found, limit;
} um__listing;

static int um__list_row(void *context, const um__log_row *row) {
    um__listing *list = context;
    const um_events_spec *spec = &list->spec;
    if (spec->metric != UM_NONE && row->head.metric != spec->metric) return 1;
    if (spec->text_len) {
        if (!(row->head.flags & UM_ROW_TEXT) || row->len <= sizeof row->head + spec->text_len || row->data[sizeof row->head] != spec->text_len ||
            memcmp(row->data + sizeof row->head + 1, list->text, spec->text_len)) return 1;
    } else if (row->head.account != spec->account || row->head.flags & UM_ROW_TEXT) {
        return 1;
    }
    if (row->ts < spec->since || row->ts > spec->until || um__is_skipped(list->st, row->seq)) return 1;
    um_event_head head = {row->seq, row->ts};
    um_arena *out = list->out;
    if (list->found == list->limit || sizeof head + row->len > out->reserved - out->used) return 0;
    memcpy(out->base + out->used, &head, sizeof head);
    memcpy(out->base + out->used + sizeof head, row->data, row->len);
    out->used += sizeof head + row->len;
    list->found++;
    return 1;
}

uint64_t um_events_scan(const um_state *state, const uint8_t *spec, uint64_t spec_len, uint32_t group, const uint8_t *records, uint64_t len,
                        uint64_t limit, uint64_t first_row, uint64_t end_row, um_arena *out) {
    um__listing list = {.st = state, .out = out, .limit = limit};
    if (spec_len < sizeof list.spec) return 0;
    memcpy(&list.spec, spec, sizeof list.spec);
    if (list.spec.text_len > spec_len - sizeof list.spec || list.spec.after_seq == UINT64_MAX) return 0;
    list.text = spec + sizeof list.spec;
    const uint64_t first = list.spec.after_seq + 1 > first_row ? list.spec.after_seq + 1 : first_row;
    const uint64_t end = list.spec.end_seq < end_row ? list.spec.end_seq : end_row;
    um__log_rows(records, len, group, first, end, um__list_row, &list);
    return list.found;
}
