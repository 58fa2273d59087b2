/* periods.c - which billing period an instant lies in (UTC, proleptic Gregorian calendar, no libc).
 *
 * Everything is day arithmetic: day 0 is 1970-01-01, a Thursday. Months are counted from the civil date; a
 * year is shifted to begin on 1 March, so the leap day is its last day and month lengths follow one formula.
 * All bounds are midnights, hence hour-aligned: a bucket never straddles a period. Bounds that do not fit an
 * i64 of nanoseconds (around the years 1677 and 2262) are clamped to it.
 */
#include "um_kernels.h"

#define DAY_NS (24 * UM_HOUR_NS)
#define DAYS_PER_ERA 146097   /* 400 years */

/* Days since 1970-01-01 of a civil date; month 1..12. */
static int64_t days_from_civil(int64_t year, int64_t month, int64_t day) {
    if (month <= 2) year--;
    const int64_t era = (year >= 0 ? year : year - 399) / 400;
    const int64_t year_of_era = year - era * 400;
    const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    const int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * DAYS_PER_ERA + day_of_era - 719468;
}

static void civil_from_days(int64_t days, int64_t *year, int64_t *month, int64_t *day) {
    days += 719468;
    const int64_t era = (days >= 0 ? days : days - (DAYS_PER_ERA - 1)) / DAYS_PER_ERA;
    const int64_t day_of_era = days - era * DAYS_PER_ERA;
    const int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    const int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const int64_t shifted_month = (5 * day_of_year + 2) / 153;   /* 0 = March */
    *day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    *month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    *year = year_of_era + era * 400 + (*month <= 2);
}

static int64_t ns_of_day(int64_t day) {
    if (day > INT64_MAX / DAY_NS) return INT64_MAX;
    if (day < INT64_MIN / DAY_NS) return INT64_MIN;
    return day * DAY_NS;
}

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

void um_period_bounds(uint32_t period_type, uint32_t billing_day, int64_t ts, int64_t *start, int64_t *end) {
    const int64_t today = floor_div(ts, DAY_NS);
    int64_t first, next, year, month, day;
    switch (period_type) {
    case UM_PERIOD_MONTH:
        if (billing_day < 1 || billing_day > 28) billing_day = 1;
        civil_from_days(today, &year, &month, &day);
        if (day < (int64_t)billing_day && --month == 0) {
            month = 12;
            year--;
        }
        first = days_from_civil(year, month, billing_day);
        next = month == 12 ? days_from_civil(year + 1, 1, billing_day) : days_from_civil(year, month + 1, billing_day);
        break;
    case UM_PERIOD_DAY:
        first = today;
        next = today + 1;
        break;
    case UM_PERIOD_WEEK:
        first = floor_div(today + 3, 7) * 7 - 3;   /* day -3 was a Monday */
        next = first + 7;
        break;
    default:   /* UM_PERIOD_FIXED30 */
        first = floor_div(today, 30) * 30;
        next = first + 30;
        break;
    }
    *start = ns_of_day(first);
    *end = ns_of_day(next);
}
