/* spans.c - requests with parts in several groups, until they are answered.
 *
 * A span is the one answer to a request whose rows went to several groups (split.c). Each part is a batch in the open
 * entry of its group, with a um_request that names the span. Parts are answered whenever their groups are ready, in any
 * order: each adds what it says to the span, and the last one sends it. So everything a span adds up must not depend on
 * the order: counts are sums; the offset, the session verdict and `over` are maxima; the first bad event is a minimum.
 *
 *   last_offset       the greatest stamp of the parts' entries
 *   session_verdict   the gravest: an error (they are the greater numbers), else DUPLICATE when any part was a retry,
 *                     whose counts are then the first answer's; 0 when every part was applied now
 *   first_bad         the least event, by its index as sent, that was not stored for another reason than duplicate
 *   verdicts          per event, for who wants them; those of events that intake left out are there from the beginning
 *
 * A part may also fail, or be let go without an answer (um_spans_release). Then the span is over: a failure is sent at
 * once, and the parts that are still to come are silent. The slot is free when no part is left, so a number in a
 * um_request is always that of a living span.
 *
 * The table is slots of one size, each with room for the largest request's events; memory is touched as used. Free
 * slots form a list, newest first.
 */
#include "um__wire.h"

uint64_t um_span_slot_bytes(uint32_t batch_events_max) {
    return (sizeof(um_span) + (uint64_t)batch_events_max * sizeof(um_span_event) + 7) & ~7ULL;
}

void um_spans_init(um_spans *spans, uint32_t batch_events_max) {
    spans->slot_bytes = (uint32_t)um_span_slot_bytes(batch_events_max);
    const uint64_t fit = spans->slots.reserved / spans->slot_bytes;
    spans->slots_max = fit < UM_SPANS_MAX ? (uint32_t)fit : UM_SPANS_MAX;
    spans->made = spans->open = spans->first_free = 0;
}

int um__spans_full(const um_spans *spans) { return spans->open == spans->slots_max; }

uint32_t um__span_open(um_spans *spans) {
    uint32_t number = spans->made;
    if (spans->first_free != 0) {
        number = spans->first_free - 1;
        spans->first_free = um__span(spans, number)->next_free;
    } else {
        spans->made++;
    }
    um_span *span = um__span(spans, number);
    memset(span, 0, sizeof *span);
    span->total.first_bad = UM_NONE;
    spans->open++;
    return number;
}

void um__span_let_go(um_spans *spans, uint32_t number) {
    um_span *span = um__span(spans, number);
    if (--span->parts != 0) return;
    span->next_free = spans->first_free;
    spans->first_free = number + 1;
    spans->open--;
}

void um_spans_release(um_spans *spans, const um_request *requests, uint32_t count) {
    for (uint32_t n = 0; n < count; n++) {
        if (requests[n].span == 0) continue;
        um__span(spans, requests[n].span - 1)->over = 1;
        um__span_let_go(spans, requests[n].span - 1);
    }
}

/* Which events were the part's rows? They are those of its group, in order. */
static void add_events(um_span *span, const um_request *part, const um_summary *summary, const uint8_t *verdicts) {
    um_span_event *events = um__span_events(span);
    um_summary *total = &span->total;
    for (uint32_t event = 0, row = 0; event < span->events && row < part->row_count; event++) {
        if (events[event].group != part->notes_off) continue;
        if (verdicts != NULL) events[event].verdict = verdicts[part->row_base + row];
        if (row == summary->first_bad && event < total->first_bad) {
            total->first_bad = event;
            total->first_verdict = summary->first_verdict;
        }
        row++;
    }
}

void um__span_add(um_span *span, const um_request *part, const um_summary *summary, const uint8_t *verdicts) {
    um_summary *total = &span->total;
    if (part->first_seq > total->last_offset) total->last_offset = part->first_seq;
    if (summary == NULL) {          /* async: answered as ordered */
        total->stored += part->row_count;
        return;
    }
    total->stored += summary->stored;
    total->duplicates += summary->duplicates;
    total->conflicts += summary->conflicts;
    total->refused += summary->refused;
    if (summary->session_verdict > total->session_verdict) total->session_verdict = summary->session_verdict;
    const int wanted = (span->flags & UM_REQ_WANTS_VERDICTS) && summary->session_verdict == 0 && summary->stored != part->row_count;
    if (wanted || summary->first_bad != UM_NONE) add_events(span, part, summary, wanted ? verdicts : NULL);
}
