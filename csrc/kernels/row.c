/* row.c - the one place that knows the layout of a row's tail.
 *
 * A row is a 32-byte head and a tail of text key, id and properties (um_layout.h). Parsing is the gate between
 * bytes from outside and everything behind it: what passes here is well-formed to the last byte, with one
 * encoding per meaning (sorted keys, zero padding shorter than 8), so equal events have equal bytes and the
 * dedup hashes of the log can be taken over bytes.
 */
#include "um__apply.h"

/* [len u8, bytes] of min..max bytes; advances *at; NULL when it does not fit */
static const uint8_t *short_string(const uint8_t **at, const uint8_t *end, uint32_t max, uint32_t *len) {
    const uint8_t *p = *at;
    if (end - p < 1) return NULL;
    *len = p[0];
    if (*len < 1 || *len > max || (uint64_t)(end - p) < 1 + (uint64_t)*len) return NULL;
    *at = p + 1 + *len;
    return p + 1;
}

static int keys_ascend(const um__property *a, const um__property *b) {
    const uint32_t shared = a->key_len < b->key_len ? a->key_len : b->key_len;
    const int order = memcmp(a->key, b->key, shared);
    return order < 0 || (order == 0 && a->key_len < b->key_len);
}

static int parse_properties(const uint8_t **at, const uint8_t *end, um__row_view *view) {
    const uint8_t *p = *at;
    for (uint32_t i = 0; i < view->prop_count; i++) {
        um__property *prop = &view->props[i];
        if (end - p < 2) return 0;
        prop->key_len = p[0];
        prop->value_len = p[1];
        p += 2;
        if (prop->key_len < 1 || prop->key_len > UM_KEY_BYTES_MAX) return 0;
        if ((uint64_t)(end - p) < (uint64_t)prop->key_len + prop->value_len) return 0;
        prop->key = p;
        prop->value = p + prop->key_len;
        p += prop->key_len + prop->value_len;
        if (i > 0 && !keys_ascend(prop - 1, prop)) return 0;
    }
    *at = p;
    return 1;
}

int um__row_parse(const uint8_t *data, uint64_t len, um__row_view *view) {
    um_row head;   /* a copy: `data` may lie at any address */
    if (len < sizeof head) return 0;
    memcpy(&head, data, sizeof head);
    if (head.operation > UM_OP_REMOVE || (head.flags & ~(UM_ROW_TEXT | UM_ROW_ID)) != 0 || head.reserved != 0) return 0;
    if (head.timestamp_ns < 0 || head.prop_count > UM_PROPERTIES_MAX) return 0;
    if (head.tail_len % 8 != 0 || (uint64_t)head.tail_len > len - sizeof head) return 0;

    view->head = (const um_row *)(const void *)data;
    view->text = view->id = NULL;
    view->text_len = view->id_len = 0;
    view->prop_count = head.prop_count;
    view->total_len = (uint32_t)sizeof head + head.tail_len;
    if ((head.tail_len | head.flags | head.prop_count) == 0) return 1;   /* the plain event */
    const uint8_t *at = data + sizeof head, *end = at + head.tail_len;
    if (head.flags & UM_ROW_TEXT) {
        if (head.account != 0) return 0;
        view->text = short_string(&at, end, UM_ACCOUNT_BYTES_MAX, &view->text_len);
        if (view->text == NULL) return 0;
    }
    if (head.flags & UM_ROW_ID) {
        view->id = short_string(&at, end, UM_ID_BYTES_MAX, &view->id_len);
        if (view->id == NULL) return 0;
    }
    if (!parse_properties(&at, end, view)) return 0;
    if (end - at >= 8) return 0;
    for (; at < end; at++) {
        if (*at != 0) return 0;
    }
    return 1;
}

const um__property *um__row_property(const um__row_view *view, const um_dimension *dimension) {
    for (uint32_t i = 0; i < view->prop_count; i++) {
        const um__property *prop = &view->props[i];
        if (prop->key_len == dimension->len && memcmp(prop->key, dimension->key, prop->key_len) == 0) return prop;
    }
    return NULL;
}

uint32_t um__row_dims(const um_state *st, const um_metric *metric, const um__row_view *view, uint32_t *dims) {
    uint32_t dims_len = 0;
    for (uint32_t i = 0; i < metric->dimension_count; i++) {
        const um__property *prop = um__row_property(view, &metric->dimensions[i]);
        dims[i] = prop == NULL ? 0 : um__find_value(st, prop->value, prop->value_len);
        if (dims[i] == UM_NONE) return UM_NONE;
        if (dims[i] != 0) dims_len = i + 1;
    }
    return dims_len;
}
