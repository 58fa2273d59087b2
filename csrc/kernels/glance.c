/* glance.c - a lone usage query, from the bytes that came to the bytes that leave.
 *
 * Most reads are one total of one account, asked by a client that waits for it. Taken apart and put together by the general
 * way (frames, a query's spec, rows, an answer) such a read costs several times what it is. Here all of it is one call.
 * What is not exactly that - another frame, several, filters, a range that cuts an hour in which there were events, bad
 * values - is left to the general way, which also knows how to refuse.
 */
#include "um__query.h"
#include "um__wire.h"

uint64_t um_glance(um_state *state, const um_catalog *newest, const um_catalog *catalog, const uint8_t *data, uint64_t len,
                   um_arena *scratch, uint8_t *out) {
    const uint8_t *query = data + UM_V1_REQUEST_HEADER_BYTES, *code = query + UM_V1_USAGE_QUERY_CODE_AT;
    if (len != UM_V1_REQUEST_HEADER_BYTES + UM_V1_USAGE_QUERY_BYTES || um__load32(data) != UM_V1_MAGIC ||
        data[UM_V1_REQUEST_HEADER_VERSION_AT] != UM_V1_VERSION || data[UM_V1_REQUEST_HEADER_TYPE_AT] != UM_V1_TYPE_USAGE_QUERY ||
        um__load32(data + UM_V1_REQUEST_HEADER_PAYLOAD_LEN_AT) != UM_V1_USAGE_QUERY_BYTES || query[UM_V1_USAGE_QUERY_COUNT_AT])
        return 0;
    um_query_spec spec = {.account = um__load64(query + UM_V1_USAGE_QUERY_ACCOUNT_AT),
                          .start = um__load64s(query + UM_V1_USAGE_QUERY_START_AT),
                          .end = um__load64s(query + UM_V1_USAGE_QUERY_END_AT),
                          .metric = um_catalog_find(newest, code, um__text_len(code, UM_V1_USAGE_QUERY_COUNT_AT - UM_V1_USAGE_QUERY_CODE_AT))};
    if (spec.metric == UM_NONE || spec.start < 0 || spec.start > spec.end) return 0;

    um_query_info info = {.groups_max = 1};
    um_query_row row;
    uint64_t cursor = 0;
    if (um_query_begin(state, catalog, (const uint8_t *)&spec, sizeof spec, scratch, &info) != UM_Q_DONE) return 0;
    if (um_query_rows(state, scratch, &cursor, (uint8_t *)&row, sizeof row) != sizeof row) return 0;

    int unique = catalog->metrics[spec.metric].aggregation == UM_AGG_UNIQUE, some = row.count != 0;
    uint8_t *aggregate = out + UM_V1_RESPONSE_HEADER_BYTES;
    memset(out, 0, UM_GLANCE_BYTES);
    out[UM_V1_RESPONSE_HEADER_STATUS_AT] = UM_V1_STATUS_OK;
    um__store32(out + UM_V1_RESPONSE_HEADER_REQUEST_ID_AT, um__load32(data + UM_V1_REQUEST_HEADER_REQUEST_ID_AT));
    um__store32(out + UM_V1_RESPONSE_HEADER_PAYLOAD_LEN_AT, UM_V1_AGGREGATE_BYTES);
    um__store64(aggregate + UM_V1_AGGREGATE_SUM_LO_AT, row.sum_lo);
    um__store64(aggregate + UM_V1_AGGREGATE_SUM_HI_AT, (uint64_t)row.sum_hi);
    um__store64(aggregate + UM_V1_AGGREGATE_COUNT_AT, unique ? row.unique : row.count);
    um__store64(aggregate + UM_V1_AGGREGATE_MAX_AT, some ? (uint64_t)row.max : 0);
    um__store64(aggregate + UM_V1_AGGREGATE_LAST_VALUE_AT, some ? (uint64_t)row.last_value : 0);
    um__store64(aggregate + UM_V1_AGGREGATE_LAST_TIMESTAMP_NS_AT, some ? (uint64_t)row.last_ts : 0);
    um__store64(aggregate + UM_V1_AGGREGATE_ALERT_BITS_AT, row.fired);
    return UM_GLANCE_BYTES;
}
