/* query_scan.c - the part of an answer that comes from the journal: rows of the hours that must be scanned.
 *
 * A row counts when apply stored it (it is not in SKIPS), it is of the series, and its time lies in a scanned
 * edge. Whether a filtered or grouped query wants it is decided by the cell that it was stored in. A row logged
 * before a dimension was added to the metric was stored without that dimension, whatever its properties say: its
 * cell is the longest prefix of its dimension values whose bucket existed by then (first_seq <= seq). Longer
 * prefixes, if cells have them now, got their first event after the dimension came, later than this row.
 */
#include "um__apply.h"
#include "um__query.h"

typedef struct {
    um__query *q;
    const um_state *st;
    const um_metric *metric;
} um__scan;

static int um__of_series(um__query *q, const um__log_row *row) {
    if (row->head.metric != q->metric) return 0;
    if (!q->text_len) return row->head.account == q->account && !(row->head.flags & UM_ROW_TEXT);
    return row->head.flags & UM_ROW_TEXT && row->len > sizeof row->head + q->text_len && row->data[sizeof row->head] == q->text_len &&
           !memcmp(row->data + sizeof row->head + 1, um__q_at(q, q->text_off), q->text_len);
}

/* value numbers of all declared dimensions, up to the first value that was never interned */
static uint32_t um__values_of(const um__scan *scan, const um__row_view *view, uint32_t *values) {
    for (uint32_t d = 0; d < scan->metric->dimension_count; d++) {
        const um__property *property = um__row_property(view, &scan->metric->dimensions[d]);
        values[d] = property ? um__find_value(scan->st, property->value, property->value_len) : 0;
        if (values[d] == UM_NONE) return d;
    }
    return scan->metric->dimension_count;
}

/* the cell that apply stored the row in, UM_NONE when it is not there (it would be a row that apply never saw) */
static uint32_t um__cell_of(const um__scan *scan, const um__log_row *row) {
    uint32_t values[UM_DIMENSIONS_MAX], len, cell, bucket;
    um__row_view view;
    if (!um__row_parse(row->data, row->len, &view)) return UM_NONE;
    len = um__values_of(scan, &view, values);
    for (;;) {
        while (len && values[len - 1] == 0) len--;
        cell = um__find_cell(scan->st, scan->q->series, values, len);
        bucket = cell == UM_NONE ? UM_NONE : um__find_bucket(scan->st, cell, um__hour(row->ts));
        if (bucket != UM_NONE && um__um_bucket(scan->st, bucket)->first_seq <= row->seq) return cell;
        if (!len) return UM_NONE;
        len--;
    }
}

static int um__scan_row(void *context, const um__log_row *row) {
    const um__scan *scan = context;
    um__query *q = scan->q;
    if (!um__of_series(q, row) || row->ts < 0) return 1;
    const um__edge *lo = &q->edge[UM__LO], *hi = &q->edge[UM__HI];
    int in_lo = lo->scan && row->ts >= lo->from && row->ts < lo->to, in_hi = hi->scan && row->ts >= hi->from && row->ts < hi->to;
    if ((!in_lo && !in_hi) || um__is_skipped(scan->st, row->seq)) return 1;
    uint32_t group = 0;
    if (q->group_by_count || q->filter_count) {
        uint32_t cell = um__cell_of(scan, row);
        if (cell == UM_NONE || !um__q_selected(q, scan->st, um__um_cell(scan->st, cell))) return 1;
        group = um__q_group_of(q, scan->st, um__um_cell(scan->st, cell), 0);
        if (group == UM_NONE) return 1;
    }
    if (row->ts >= q->start && row->ts < q->end) um__acc_event(&um__q_group(q, group)->acc, row->head.value, row->ts, row->seq);
    if (q->unique && (in_hi || !q->recurring)) um__q_member(q, group, row->head.value, row->ts, row->seq, row->head.operation, 0);
    return 1;
}

void um_query_scan(const um_state *state, const um_catalog *catalog, um_arena *scratch, uint32_t group, const uint8_t *records, uint64_t len,
                   uint64_t first_row, uint64_t end_row) {
    um__query *q = um__q(scratch);
    um__scan scan = {q, state, &catalog->metrics[q->metric]};
    uint64_t first_seq = q->end_seq;
    if (q->series == UM_NONE) return;
    for (int side = UM__LO; side <= UM__HI; side++)
        if (q->edge[side].scan && q->edge[side].first_seq < first_seq) first_seq = q->edge[side].first_seq;
    if (first_seq < first_row) first_seq = first_row;
    um__log_rows(records, len, group, first_seq, end_row < q->end_seq ? end_row : q->end_seq, um__scan_row, &scan);
}
