/* intake_v1.c - a v1 ingest payload becomes rows.
 *
 *   event_count u32, prop_count u32, event_count x 96 B, prop_count x 96 B (properties stand in event order)
 *
 * What is refused, and how hard. The first fault in the order of the bytes decides:
 *   MALFORMED (the link is closed): lengths that do not add up; an event's code that is empty or has no NUL;
 *     operation above 2; more than 16 properties, or more than the payload holds; a property key that is empty,
 *     has no NUL or stands twice in its event; a property value without a NUL; properties left over.
 *   BAD_ROW, VALUE_RANGE (the request is refused, the link stays): a timestamp below 0, a value above 2^63 - 1.
 *   TOO_MANY_EVENTS (the same): event_count above the limit, when the lengths add up.
 * Bytes behind a text's NUL and pad bytes are not looked at. Events of unknown metrics are checked like all
 * others, then noted and left out.
 */
#include "um__wire.h"

#define EVENT UM_V1_EVENT_BYTES
#define PROPERTY UM_V1_PROPERTY_BYTES
#define FIELD_BYTES 64

static int same_field(const uint8_t *a, const uint8_t *b) {
    uint64_t difference = 0;
    for (uint32_t at = 0; at < FIELD_BYTES; at += 8) difference |= um__load64(a + at) ^ um__load64(b + at);
    return difference == 0;
}

/* metric id, UM_NONE for an unknown one; *bad when the field is no code at all */
static inline uint32_t resolve(um__intake_call *call, const uint8_t *field, int *bad) {
    uint64_t mixed = (um__load64(field) ^ (um__load64(field + 8) * 3)) * UM__K0;
    um__code_slot *slot = &call->codes.slots[mixed >> 60];
    if (slot->field != NULL && same_field(slot->field, field)) return slot->id;
    uint32_t len = um__text_len(field, FIELD_BYTES);
    if (len == 0 || len == FIELD_BYTES) {
        *bad = 1;
        return UM_NONE;
    }
    slot->field = field;
    slot->id = um_catalog_find(call->catalog, field, len);
    return slot->id;
}

static int key_order(const um__property *a, const um__property *b) {
    uint32_t shared = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = memcmp(a->key, b->key, shared);
    return order != 0 ? order : (int)a->key_len - (int)b->key_len;
}

/* Sort `count` wire properties by key into the tail at out; its length (a multiple of 8), or UM_NONE when malformed.
 * An insertion sort: there are at most 16, mostly in order already. */
static uint32_t put_properties(const uint8_t *wire, uint32_t count, uint8_t *out) {
    um__property sorted[UM_PROPERTIES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        um__property property;
        property.key = wire + (uint64_t)i * PROPERTY + UM_V1_PROPERTY_KEY_AT;
        property.value = wire + (uint64_t)i * PROPERTY + UM_V1_PROPERTY_VALUE_AT;
        property.key_len = um__text_len(property.key, UM_V1_PROPERTY_VALUE_AT - UM_V1_PROPERTY_KEY_AT);
        property.value_len = um__text_len(property.value, PROPERTY - UM_V1_PROPERTY_VALUE_AT);
        if (property.key_len == 0 || property.key_len > UM_KEY_BYTES_MAX) return UM_NONE;
        if (property.value_len > UM_V1_VALUE_BYTES_MAX) return UM_NONE;
        uint32_t place = i;
        for (; place > 0; place--) {
            int order = key_order(&sorted[place - 1], &property);
            if (order == 0) return UM_NONE;
            if (order < 0) break;
            sorted[place] = sorted[place - 1];
        }
        sorted[place] = property;
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        const um__property *property = &sorted[i];
        out[at] = (uint8_t)property->key_len;
        out[at + 1] = (uint8_t)property->value_len;
        memcpy(out + at + 2, property->key, property->key_len);
        memcpy(out + at + 2 + property->key_len, property->value, property->value_len);
        at += 2 + property->key_len + property->value_len;
    }
    uint32_t padded = (at + 7) & ~7u;
    memset(out + at, 0, padded - at);
    return padded;
}

static void refuse(um__taken *taken, uint32_t status, uint32_t event) {
    taken->status = status;
    taken->at_event = event;
}

void um__take_v1(um__intake_call *call, const uint8_t *payload, uint64_t len, uint8_t *rows, uint32_t *notes, um__taken *taken) {
    if (len < UM_V1_INGEST_HEAD_BYTES) return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    const uint32_t events = um__load32(payload + UM_V1_INGEST_HEAD_EVENT_COUNT_AT);
    uint32_t props_left = um__load32(payload + UM_V1_INGEST_HEAD_PROP_COUNT_AT);
    if (len != UM_V1_INGEST_HEAD_BYTES + (uint64_t)events * EVENT + (uint64_t)props_left * PROPERTY)
        return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    taken->events = events;
    if (events > call->batch_events_max) return refuse(taken, UM_REQ_TOO_MANY_EVENTS, UM_NONE);

    const uint8_t *event = payload + UM_V1_INGEST_HEAD_BYTES;
    const uint8_t *props = event + (uint64_t)events * EVENT;
    uint8_t *out = rows;
    for (uint32_t index = 0; index < events; index++, event += EVENT) {
        int bad = 0;
        uint32_t metric = resolve(call, event + UM_V1_EVENT_CODE_AT, &bad);
        uint32_t prop_count = event[UM_V1_EVENT_PROP_COUNT_AT], tail_len = 0;
        uint8_t operation = event[UM_V1_EVENT_OPERATION_AT];
        if (bad || operation > UM_OP_REMOVE || prop_count > UM_PROPERTIES_MAX || prop_count > props_left)
            return refuse(taken, UM_REQ_MALFORMED, index);
        if (prop_count != 0) {
            tail_len = put_properties(props, prop_count, out + sizeof(um_row));
            if (tail_len == UM_NONE) return refuse(taken, UM_REQ_MALFORMED, index);
            props += (uint64_t)prop_count * PROPERTY;
            props_left -= prop_count;
        }
        um_row row;
        row.account = um__load64(event + UM_V1_EVENT_ACCOUNT_AT);
        row.timestamp_ns = um__load64s(event + UM_V1_EVENT_TIMESTAMP_NS_AT);
        row.value = um__load64s(event + UM_V1_EVENT_VALUE_AT);
        if (row.timestamp_ns < 0) return refuse(taken, UM_REQ_BAD_ROW, index);
        if (row.value < 0) return refuse(taken, UM_REQ_VALUE_RANGE, index);
        if (metric == UM_NONE) {
            notes[2 * taken->unknown] = index;
            notes[2 * taken->unknown + 1] = UM_V_UNKNOWN_METRIC;
            taken->unknown++;
            continue;
        }
        row.metric = (uint16_t)metric;
        row.operation = operation;
        row.flags = 0;
        row.prop_count = (uint8_t)prop_count;
        row.reserved = 0;
        row.tail_len = (uint16_t)tail_len;
        memcpy(out, &row, sizeof row);
        out += sizeof row + tail_len;
    }
    if (props_left != 0) return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    taken->row_count = events - taken->unknown;
    taken->rows_len = (uint32_t)(out - rows);
    taken->batch.flags = UM_BATCH_V1;
}
