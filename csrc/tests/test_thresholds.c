/* test_thresholds.c - periods of the calendar, running totals, and when an alert is made. */
#include "state_fixture.h"

/* ---- periods, against a calendar that walks day by day ---- */

typedef struct { int64_t day; int year, month, mday; } date;
static date next_day(date d) {
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const int leap = (d.year % 4 == 0 && d.year % 100 != 0) || d.year % 400 == 0;
    d.day++;
    if (++d.mday <= lengths[d.month - 1] + (d.month == 2 && leap)) return d;
    d.mday = 1;
    if (++d.month > 12) {
        d.month = 1;
        d.year++;
    }
    return d;
}

static void expect(uint32_t type, uint32_t billing_day, int64_t day, int64_t first, int64_t past) {
    for (int i = 0; i < 3; i++) {   /* first, some, and last nanosecond of the day */
        int64_t start, end;
        um_period_bounds(type, billing_day, day * DAY_NS + (i == 0 ? 0 : i == 1 ? DAY_NS / 3 : DAY_NS - 1), &start, &end);
        assert(start == first * DAY_NS && end == past * DAY_NS);
    }
}

static void periods_agree_with_a_calendar_that_walks_day_by_day(void) {
    for (uint32_t billing_day = 1; billing_day <= 28; billing_day += 9) {
        date d = {0, 1970, 1, 1}, first = d;
        int64_t begins = INT64_MIN;   /* start of the current period, once we have seen one begin */
        while (d.day < 106700) {   /* year 2262 */
            first = d;
            if ((uint32_t)d.mday == billing_day) begins = d.day;
            date past = next_day(first);
            while ((uint32_t)past.mday != billing_day) past = next_day(past);
            if (begins != INT64_MIN) expect(UM_PERIOD_MONTH, billing_day, d.day, begins, past.day);
            expect(UM_PERIOD_DAY, billing_day, d.day, d.day, d.day + 1);
            expect(UM_PERIOD_FIXED30, billing_day, d.day, d.day / 30 * 30, d.day / 30 * 30 + 30);
            const int64_t monday = d.day - (d.day + 3) % 7;   /* day 4 was a Monday */
            expect(UM_PERIOD_WEEK, billing_day, d.day, monday, monday + 7);
            for (int skip = 0; skip < 1 + (int)dice(4); skip++) {
                d = next_day(d);
                if ((uint32_t)d.mday == billing_day) begins = d.day;
            }
        }
    }
}

static void bounds_at_the_ends_of_time_are_clamped_and_around_their_instant(void) {
    const int64_t instants[] = {0, 1, INT64_MAX, INT64_MAX - 1, INT64_MAX / 2};
    for (uint32_t type = 0; type < 4; type++) {
        for (uint32_t day = 0; day <= 28; day++) {
            for (int i = 0; i < 5; i++) {
                int64_t start, end;
                um_period_bounds(type, day, instants[i], &start, &end);
                assert(start <= instants[i] && start < end && (instants[i] < end || end == INT64_MAX));
            }
        }
    }
    int64_t start, end;
    um_period_bounds(UM_PERIOD_MONTH, 15, 0, &start, &end);
    assert(start == -17 * DAY_NS && end == 14 * DAY_NS);   /* 15 December 1969 */
}

/* ---- alerts ---- */

static world *metered(uint8_t aggregation, uint8_t period_type, um_metric **metric) {
    world *w = world_new(plenty());
    *metric = add_metric(w, aggregation);
    (*metric)->period_type = period_type;
    return w;
}

static um_alert *alert(world *w, uint32_t number) {
    assert(number >= 1 && number <= records(w, UM_R_ALERTS));
    return um__um_alert(&w->st, number - 1);
}

static uint32_t add(world *w, int64_t value, int64_t ts) {   /* alerts made */
    assert(send(w, 0, EVENT(.metric = 5, .value = value, .ts = ts)) == UM_V_STORED);
    return (uint32_t)(w->applied.alerts_after - w->applied.alerts_before);
}

static void a_one_shot_threshold_fires_once_per_period(void) {
    um_metric *m;
    world *w = metered(UM_AGG_SUM, UM_PERIOD_DAY, &m);
    add_threshold(m, 100, 0);
    assert(add(w, 99, BASE) == 0 && add(w, 1, BASE) == 1 && add(w, 50, BASE) == 0);
    assert(add(w, -100, BASE) == 0 && add(w, 100, BASE) == 0);   /* below, and above again: it has fired */
    const um_alert *a = alert(w, 1);
    assert(a->number == 1 && a->account == 7 && a->metric == 5 && a->slot == 0 && a->text == 0 && a->value == 100 && a->seq == 2);
    assert(a->period_start == BASE / DAY_NS * DAY_NS && a->stamp_ns > BASE);
    assert(add(w, 100, BASE + DAY_NS) == 1 && alert(w, 2)->period_start == a->period_start + DAY_NS);
    world_free(w);
}

static void a_recurring_threshold_fires_on_every_rise_while_its_period_lasts(void) {
    um_metric *m;
    world *w = metered(UM_AGG_LATEST, UM_PERIOD_DAY, &m);
    add_threshold(m, 10, 1);
    for (int i = 0; i < 5; i++) assert(add(w, i % 2 ? 3 : 12, BASE + i) == (i % 2 ? 0 : 1));
    w->stamp += 2 * DAY_NS;   /* the period is over: late events change its total and fire no more */
    assert(add(w, 3, BASE + 8) == 0 && add(w, 12, BASE + 9) == 0);
    assert(add(w, 12, BASE + DAY_NS) == 1 && add(w, 3, BASE + DAY_NS + 1) == 0 && add(w, 12, BASE + DAY_NS + 2) == 0);   /* over, too: once */
    world_free(w);
}

static void a_new_threshold_counts_what_was_there_before_it(void) {
    um_metric *m;
    world *w = metered(UM_AGG_COUNT, UM_PERIOD_MONTH, &m);
    add_dimension(m, "k");
    for (int i = 0; i < 10; i++) {
        const char *value = i % 2 ? "a" : "b";
        send(w, 0, EVENT(.metric = 5, .ts = BASE + i * UM_HOUR_NS, .props = {"k", value}));
    }
    send(w, 0, EVENT(.metric = 5, .ts = BASE - 40 * DAY_NS));
    assert(records(w, UM_R_PERIODS) == 0);
    add_threshold(m, 11, 0);
    assert(add(w, 1, BASE + UM_HOUR_NS) == 1 && alert(w, 1)->value == 11);
    m->thresholds[0].active = 0;   /* totals are maintained without any */
    assert(add(w, 1, BASE) == 0);
    add_threshold(m, 13, 0);
    assert(add(w, 1, BASE) == 1 && alert(w, 2)->value == 13 && alert(w, 2)->slot == 1);
    world_free(w);
}

static void seats_are_carried_over_and_a_late_event_reaches_every_later_period(void) {
    um_metric *m;
    world *w = metered(UM_AGG_UNIQUE, UM_PERIOD_DAY, &m);
    m->recurring = 1;
    add_threshold(m, 2, 0);
    assert(add(w, 1001, BASE) == 0);
    assert(add(w, 1002, BASE + DAY_NS) == 1);       /* 1001 is still there on the second day */
    assert(alert(w, 1)->value == 2 && um__um_period(&w->st, 1)->unique == 2 && um__um_period(&w->st, 1)->count == 1);
    assert(add(w, 1003, BASE + 1) == 1);            /* the first day has two now, the second three */
    assert(um__um_period(&w->st, 0)->unique == 2 && um__um_period(&w->st, 1)->unique == 3 && um__um_period(&w->st, 1)->count == 1);
    send(w, 0, EVENT(.metric = 5, .value = 1001, .op = UM_OP_REMOVE, .ts = BASE + DAY_NS));
    assert(um__um_period(&w->st, 0)->unique == 2 && um__um_period(&w->st, 1)->unique == 2);
    assert(add(w, 1001, BASE + 2) == 0 && um__um_period(&w->st, 1)->unique == 2);   /* added before it was removed */
    world_free(w);
}

static void members_of_a_period_that_do_not_recur_start_anew(void) {
    um_metric *m;
    world *w = metered(UM_AGG_UNIQUE, UM_PERIOD_DAY, &m);
    send(w, 0, EVENT(.metric = 5, .value = 1, .ts = BASE - DAY_NS));
    send(w, 0, EVENT(.metric = 5, .value = 2, .ts = BASE));
    add_threshold(m, 2, 0);
    assert(add(w, 2, BASE + 1) == 0 && um__um_period(&w->st, 0)->unique == 1);
    assert(add(w, 3, BASE + 1) == 1 && records(w, UM_R_PMEMBERS) == 2);
    world_free(w);
}

static void an_alert_value_is_clipped_to_64_bits(void) {
    um_metric *m;
    world *w = metered(UM_AGG_SUM, UM_PERIOD_MONTH, &m);
    assert(add(w, INT64_MAX, BASE) == 0 && add(w, INT64_MAX, BASE) == 0);
    add_threshold(m, INT64_MAX, 0);
    assert(add(w, 1, BASE) == 1 && alert(w, 1)->value == INT64_MAX);
    world_free(w);
}

static void no_room_for_an_alert_refuses_the_event(void) {
    um_metric *m;
    um_limits limits = plenty();
    limits.records_max[UM_R_ALERTS] = 3;
    world *w = world_new(limits);
    m = add_metric(w, UM_AGG_MAX);
    add_threshold(m, 5, 1);
    add_threshold(m, 6, 1);
    assert(add(w, 4, BASE) == 0 && add(w, 6, BASE) == 2);
    assert(send(w, 0, EVENT(.metric = 5)) == UM_V_FULL);   /* one record left, and this event could need two */
    world_free(w);
}

static void no_room_for_the_members_of_a_new_period_refuses_the_event(void) {
    um_limits limits = plenty();
    limits.records_max[UM_R_PMEMBERS] = 20;
    world *w = world_new(limits);
    um_metric *m = add_metric(w, UM_AGG_UNIQUE);
    m->recurring = 1;
    for (int i = 0; i < 20; i++) add(w, i, BASE - (i % 7) * 40 * DAY_NS);
    add_threshold(m, 5, 0);
    assert(send(w, 0, EVENT(.metric = 5, .value = 20)) == UM_V_FULL);   /* 20 seats carried over, and this one */
    assert(records(w, UM_R_PERIODS) == 0 && records(w, UM_R_PMEMBERS) == 0);
    assert(add(w, 20, BASE - 41 * DAY_NS) == 1);                        /* few had been added by then */
    world_free(w);
}

/* ---- against a brute-force model ---- */

typedef struct { int64_t value, ts; uint64_t account; uint8_t op; } fact;

static __int128 brute_total(const fact *facts, uint32_t count, uint64_t account, const um_metric *m, const um_period *p) {
    __int128 total = 0;
    int64_t best = 0, best_ts = -1;
    for (uint32_t i = 0; i < count; i++) {
        const fact *f = &facts[i];
        if (f->account != account || f->ts >= p->end || (f->ts < p->start && !(m->aggregation == UM_AGG_UNIQUE && m->recurring))) continue;
        if (m->aggregation == UM_AGG_COUNT) total++;
        if (m->aggregation == UM_AGG_SUM) total += f->value;
        if (m->aggregation == UM_AGG_MAX) total = best_ts < 0 || f->value > best ? f->value : best;
        if (m->aggregation == UM_AGG_LATEST && f->ts >= best_ts) total = f->value;
        if (m->aggregation == UM_AGG_MAX) best = (int64_t)total;
        if (m->aggregation != UM_AGG_UNIQUE) {
            if (f->ts >= best_ts) best_ts = f->ts;
            continue;
        }
        int decides = f->op != UM_OP_REMOVE;   /* is i the last operation on its member, and an add? */
        for (uint32_t j = 0; j < count; j++) {
            const fact *o = &facts[j];
            if (j == i || o->account != account || o->value != f->value || o->ts >= p->end) continue;
            if (o->ts < p->start && !m->recurring) continue;
            if (o->ts > f->ts || (o->ts == f->ts && j > i)) decides = 0;
        }
        total += decides;
    }
    return total;
}

static __int128 recorded_total(const um_metric *m, const um_period *p) {
    switch (m->aggregation) {
    case UM_AGG_COUNT: return (__int128)p->count;
    case UM_AGG_SUM: return (__int128)((unsigned __int128)(uint64_t)p->sum_hi << 64 | p->sum_lo);
    case UM_AGG_MAX: return p->max;
    case UM_AGG_LATEST: return p->last_value;
    default: return p->unique;
    }
}

static void running_totals_equal_a_recount_in_any_order_of_arrival(void) {
    for (int round = 0; round < 60; round++) {
        um_metric *m;
        static fact facts[200];
        world *w = metered((uint8_t)(round % 5), (uint8_t)dice(4), &m);
        m->recurring = dice(2) != 0;
        add_dimension(m, "k");
        for (uint32_t i = 0; i < 200; i++) {
            if (i == 60) add_threshold(m, 3, 1);
            const fact f = {(int64_t)dice(12) - 5, BASE + (int64_t)dice(60 * 24) * UM_HOUR_NS, dice(2), (uint8_t)dice(3)};
            static const char *const keys[] = {"", "x", "y"};
            facts[i] = f;
            assert(send(w, 0, EVENT(.account = f.account, .metric = 5, .value = f.value, .ts = f.ts, .op = f.op,
                                    .props = {"k", keys[dice(3)]})) == UM_V_STORED);
            if (i % 20 != 19) continue;
            for (uint32_t p = 0; p < records(w, UM_R_PERIODS); p++) {
                const um_period *period = um__um_period(&w->st, p);
                const uint64_t account = um__um_series(&w->st, period->series)->account;
                const __int128 total = brute_total(facts, i + 1, account, m, period);
                assert(recorded_total(m, period) == total);
                assert((period->above & 1) == (total >= 3));
            }
        }
        world_free(w);
    }
}

int main(void) {
    RUN(periods_agree_with_a_calendar_that_walks_day_by_day);
    RUN(bounds_at_the_ends_of_time_are_clamped_and_around_their_instant);
    RUN(a_one_shot_threshold_fires_once_per_period);
    RUN(a_recurring_threshold_fires_on_every_rise_while_its_period_lasts);
    RUN(a_new_threshold_counts_what_was_there_before_it);
    RUN(seats_are_carried_over_and_a_late_event_reaches_every_later_period);
    RUN(members_of_a_period_that_do_not_recur_start_anew);
    RUN(an_alert_value_is_clipped_to_64_bits);
    RUN(no_room_for_an_alert_refuses_the_event);
    RUN(no_room_for_the_members_of_a_new_period_refuses_the_event);
    RUN(running_totals_equal_a_recount_in_any_order_of_arrival);
    puts("test_thresholds: ok");
    return 0;
}
