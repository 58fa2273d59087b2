/* layout_check.c - the promises of um_layout.h, kept by the compiler: no hidden padding, sizes that are multiples
 * of 8, the sizes that are part of a format, a little-endian machine, and numbers that the protocol shares with
 * the layouts. There is no code here.
 */
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"
#include "um_layout.h"
#pragma GCC diagnostic pop
#include "um_protocol.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "layouts are little-endian and read as they lie in memory");

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes) && (bytes) % 8 == 0, #type " has " #bytes " bytes")
SIZE(um_record, 64);
SIZE(um_entry, 64);
SIZE(um_batch, 48);
SIZE(um_row, 32);
SIZE(um_limits, 192);
SIZE(um_meta, 512);
SIZE(um_value, 24);
SIZE(um_account, 24);
SIZE(um_series, 32);
SIZE(um_cell, 32);
SIZE(um_bucket, 96);
SIZE(um_member, 40);
SIZE(um_fp, 16);
SIZE(um_id, 32);
SIZE(um_result, 40);
SIZE(um_session, 48 + 64 * 40);
SIZE(um_period, 112);
SIZE(um_pmember, 32);
SIZE(um_alert, 64);
SIZE(um_skip, 16);
SIZE(um_dimension, 32);
SIZE(um_threshold, 16);
SIZE(um_metric, 80 + 16 * 32 + 64 * 16);
SIZE(um_frame, 32);
SIZE(um_scan, 24);
SIZE(um_request, 56);
SIZE(um_span, 72);
_Static_assert(sizeof(um_span_event) == 2, "two bytes an event");
_Static_assert(UM_GROUPS_MAX <= 64 && UM_GROUPS_MAX < UM_NO_GROUP, "groups are bits of a u64, and bytes");
SIZE(um_summary, 40);
SIZE(um_applied, 48);
SIZE(um_query_spec, 32);
SIZE(um_query_info, 72);
SIZE(um_query_row, 80);
SIZE(um_events_spec, 48);
SIZE(um_event_head, 16);

/* v2 sends rows as they are logged */
_Static_assert(UM_V2_ROW_BYTES == sizeof(um_row) && UM_V2_ROW_TAIL_LEN_AT == 30, "the wire's row is the log's row");
_Static_assert(UM_V2_ROW_FLAG_TEXT == UM_ROW_TEXT && UM_V2_ROW_FLAG_ID == UM_ROW_ID, "row flags");
_Static_assert(UM_V2_BATCH_FLAG_OPEN_SESSION == 1, "intake maps it to UM_BATCH_OPEN_SESSION");

#define SAME(a, b) _Static_assert((a) == (b), #a " is " #b)
SAME(UM_OPERATION_NONE, UM_OP_NONE);
SAME(UM_OPERATION_ADD, UM_OP_ADD);
SAME(UM_OPERATION_REMOVE, UM_OP_REMOVE);
SAME(UM_AGGREGATION_COUNT, UM_AGG_COUNT);
SAME(UM_AGGREGATION_SUM, UM_AGG_SUM);
SAME(UM_AGGREGATION_MAX, UM_AGG_MAX);
SAME(UM_AGGREGATION_LATEST, UM_AGG_LATEST);
SAME(UM_AGGREGATION_COUNT_UNIQUE, UM_AGG_UNIQUE);
SAME(UM_PERIOD_FIXED, UM_PERIOD_FIXED30);
SAME(UM_VERDICT_STORED, UM_V_STORED);
SAME(UM_VERDICT_DUPLICATE, UM_V_DUPLICATE);
SAME(UM_VERDICT_CONFLICT, UM_V_CONFLICT);
SAME(UM_VERDICT_UNKNOWN_METRIC, UM_V_UNKNOWN_METRIC);
SAME(UM_VERDICT_CARDINALITY, UM_V_CARDINALITY);
SAME(UM_VERDICT_FULL, UM_V_FULL);
SAME(UM_VERDICT_SESSION_UNKNOWN, UM_V_SESSION_UNKNOWN);
SAME(UM_VERDICT_SESSION_WINDOW, UM_V_SESSION_WINDOW);
SAME(UM_VERDICT_SESSION_SETTLED, UM_V_SESSION_SETTLED);
SAME(UM_VERDICT_SESSIONS_FULL, UM_V_SESSIONS_FULL);
