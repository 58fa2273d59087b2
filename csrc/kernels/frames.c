/* frames.c - from a stream of bytes to whole frames.
 *
 * TCP has no messages: a buffer may end anywhere, also inside a magic. A scan reports the whole frames at the
 * buffer's start and how many bytes they take; the caller keeps the rest and scans again when more came, so
 * the frames do not depend on how the stream was cut. The first thing that cannot be a frame ends the scan
 * with an error at `consumed`: there is no way to find the next frame after it, so the link is lost.
 *
 * v1 frames carry no checksum; v2 has one for the header (checked before payload_len is believed) and one for
 * the payload. Offsets are u32: a buffer longer than 4 GiB is looked at up to there.
 */
#include "um__wire.h"

enum { INCOMPLETE, WHOLE, BROKEN };

static int broken(um_scan *result, uint32_t error, uint32_t protocol, uint32_t request_id) {
    result->error = error;
    result->error_protocol = protocol;
    result->error_request_id = request_id;
    return BROKEN;
}

static int scan_v1(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result) {
    if (len < UM_V1_REQUEST_HEADER_BYTES) return INCOMPLETE;
    uint32_t request_id = um__load32(p + UM_V1_REQUEST_HEADER_REQUEST_ID_AT);
    uint32_t payload_len = um__load32(p + UM_V1_REQUEST_HEADER_PAYLOAD_LEN_AT);
    if (p[UM_V1_REQUEST_HEADER_VERSION_AT] != UM_V1_VERSION) return broken(result, UM_SCAN_BAD_VERSION, 1, request_id);
    if (payload_len > payload_max) return broken(result, UM_SCAN_TOO_LARGE, 1, request_id);
    if (len - UM_V1_REQUEST_HEADER_BYTES < payload_len) return INCOMPLETE;
    memset(frame, 0, sizeof *frame);
    frame->payload_off = UM_V1_REQUEST_HEADER_BYTES;
    frame->payload_len = payload_len;
    frame->request_id = request_id;
    frame->protocol = 1;
    frame->type = p[UM_V1_REQUEST_HEADER_TYPE_AT];
    frame->partition = um__load16(p + UM_V1_REQUEST_HEADER_PARTITION_AT);
    return WHOLE;
}

/* requests and responses alike */
static int scan_v2(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result) {
    if (len < UM_V2_HEADER_BYTES) return INCOMPLETE;
    if (um_crc32c(0, p, UM_V2_HEADER_HEADER_CRC_AT) != um__load32(p + UM_V2_HEADER_HEADER_CRC_AT))
        return broken(result, UM_SCAN_BAD_CRC, 2, 0);
    uint32_t request_id = um__load32(p + UM_V2_HEADER_REQUEST_ID_AT);
    uint32_t payload_len = um__load32(p + UM_V2_HEADER_PAYLOAD_LEN_AT);
    if (p[UM_V2_HEADER_VERSION_AT] != UM_V2_VERSION) return broken(result, UM_SCAN_BAD_VERSION, 2, request_id);
    if (payload_len > payload_max) return broken(result, UM_SCAN_TOO_LARGE, 2, request_id);
    if (len - UM_V2_HEADER_BYTES < payload_len) return INCOMPLETE;
    if (um_crc32c(0, p + UM_V2_HEADER_BYTES, payload_len) != um__load32(p + UM_V2_HEADER_PAYLOAD_CRC_AT))
        return broken(result, UM_SCAN_BAD_CRC, 2, request_id);
    memset(frame, 0, sizeof *frame);
    frame->payload_off = UM_V2_HEADER_BYTES;
    frame->payload_len = payload_len;
    frame->request_id = request_id;
    frame->protocol = 2;
    frame->type = p[UM_V2_HEADER_TYPE_AT];
    frame->flags = p[UM_V2_HEADER_FLAGS_AT];
    frame->status = p[UM_V2_HEADER_STATUS_AT];
    frame->deadline_ms = um__load32(p + UM_V2_HEADER_DEADLINE_MS_AT);
    uint32_t hint = um__load32(p + UM_V2_HEADER_GROUP_HINT_AT);
    frame->partition = hint < UINT16_MAX ? (uint16_t)hint : UINT16_MAX;
    return WHOLE;
}

static int scan_v1_response(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result) {
    if (len < UM_V1_RESPONSE_HEADER_BYTES) return INCOMPLETE;
    uint32_t request_id = um__load32(p + UM_V1_RESPONSE_HEADER_REQUEST_ID_AT);
    uint32_t payload_len = um__load32(p + UM_V1_RESPONSE_HEADER_PAYLOAD_LEN_AT);
    if (payload_len > payload_max) return broken(result, UM_SCAN_TOO_LARGE, 1, request_id);
    if (len - UM_V1_RESPONSE_HEADER_BYTES < payload_len) return INCOMPLETE;
    memset(frame, 0, sizeof *frame);
    frame->payload_off = UM_V1_RESPONSE_HEADER_BYTES;
    frame->payload_len = payload_len;
    frame->request_id = request_id;
    frame->protocol = 1;
    frame->status = p[UM_V1_RESPONSE_HEADER_STATUS_AT];
    if (request_id == 0) frame->type = frame->status;      /* a push: the status byte carries its type */
    return WHOLE;
}

static int scan_request(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result) {
    if (len < 4) return INCOMPLETE;
    uint32_t magic = um__load32(p);
    if (magic == UM_V1_MAGIC) return scan_v1(p, len, payload_max, frame, result);
    if (magic == UM_V2_MAGIC) return scan_v2(p, len, payload_max, frame, result);
    return broken(result, UM_SCAN_BAD_MAGIC, 0, 0);
}

static int scan_response(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result) {
    if (len < 4) return INCOMPLETE;
    if (um__load32(p) != UM_V2_MAGIC) return broken(result, UM_SCAN_BAD_MAGIC, 0, 0);
    return scan_v2(p, len, payload_max, frame, result);
}

typedef int (*scan_one)(const uint8_t *p, uint64_t len, uint32_t payload_max, um_frame *frame, um_scan *result);

static inline void scan_all(scan_one one, const uint8_t *data, uint64_t len, uint32_t payload_max, um_frame *frames,
                            uint32_t frames_max, um_scan *result) {
    uint64_t at = 0;
    memset(result, 0, sizeof *result);
    if (len > UINT32_MAX) len = UINT32_MAX;
    while (result->count < frames_max) {
        um_frame *frame = &frames[result->count];
        if (one(data + at, len - at, payload_max, frame, result) != WHOLE) break;
        frame->offset = (uint32_t)at;
        frame->payload_off += (uint32_t)at;
        at = (uint64_t)frame->payload_off + frame->payload_len;
        result->count++;
    }
    result->consumed = at;
}

uint64_t um_frames(const uint8_t *data, uint64_t len, uint32_t payload_max, um_frame *frames, uint32_t frames_max) {
    um_scan scan;
    if (len >= UINT32_MAX) return UINT64_MAX;
    um_frame_scan(data, len, payload_max, frames, frames_max, &scan);
    return scan.error || scan.count >= frames_max ? UINT64_MAX : scan.consumed << 32 | scan.count;
}

void um_frame_scan(const uint8_t *data, uint64_t len, uint32_t payload_max, um_frame *frames, uint32_t frames_max, um_scan *result) {
    scan_all(scan_request, data, len, payload_max, frames, frames_max, result);
}

void um_response_scan(const uint8_t *data, uint64_t len, uint32_t protocol, uint32_t payload_max, um_frame *frames, uint32_t frames_max,
                      um_scan *result) {
    scan_all(protocol == 1 ? scan_v1_response : scan_response, data, len, payload_max, frames, frames_max, result);
}

void um_v2_head(uint8_t *out, uint32_t type, uint32_t status, uint32_t request_id, const uint8_t *payload, uint32_t len) {
    memset(out, 0, UM_V2_HEADER_BYTES);
    um__store32(out + UM_V2_HEADER_MAGIC_AT, UM_V2_MAGIC);
    out[UM_V2_HEADER_VERSION_AT] = UM_V2_VERSION;
    out[UM_V2_HEADER_TYPE_AT] = (uint8_t)type;
    out[UM_V2_HEADER_STATUS_AT] = (uint8_t)status;
    um__store32(out + UM_V2_HEADER_PAYLOAD_LEN_AT, len);
    um__store32(out + UM_V2_HEADER_REQUEST_ID_AT, request_id);
    um__store32(out + UM_V2_HEADER_PAYLOAD_CRC_AT, um_crc32c(0, payload, len));
    um__store32(out + UM_V2_HEADER_HEADER_CRC_AT, um_crc32c(0, out, UM_V2_HEADER_HEADER_CRC_AT));
}
