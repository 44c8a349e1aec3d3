#include "heartbeat_core.h"

#include <string.h>

#include "siphash.h"

#define VERSION 2
#define COVERED_SEQ_MAX 3 /* So many heartbeats may be unacknowledged before unicast is used again. */

static const uint8_t magic[4] = {'C', 'L', 'H', 'B'};

const char *const hb_outcome_names[HB_OUTCOMES] = {
    [HB_RECEIVED] = "received",
    [HB_DUPLICATE] = "duplicate",
    [HB_TOO_SHORT] = "dropped.too_short",
    [HB_TOO_LONG] = "dropped.too_long",
    [HB_FOREIGN] = "dropped.foreign",
    [HB_WRONG_KEY_NUMBER] = "dropped.wrong_key_number",
    [HB_FORGED] = "dropped.forged",
    [HB_MALFORMED] = "dropped.malformed",
    [HB_STRANGER] = "dropped.stranger",
    [HB_REPLAYED] = "dropped.replayed",
};

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static uint64_t
get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    while (bytes--)
        value = (value << 8) | at[bytes];
    return value;
}

static uint8_t *
put(uint8_t *at, uint64_t value, int bytes)
{
    for (; bytes; bytes--, value >>= 8)
        *at++ = (uint8_t)value;
    return at;
}

static bool
equal_in_constant_time(const uint8_t *one, const uint8_t *other, size_t length)
{
    uint8_t difference = 0;
    while (length--)
        difference |= (uint8_t)(*one++ ^ *other++);
    return difference == 0;
}

/* --- who is there ------------------------------------------------------------------------------------------------- */

void
hb_init(struct hb_core *core, uint16_t node, uint64_t boot, const uint8_t key[HB_KEY_BYTES], uint8_t key_number)
{
    /* The queue needs no content, and pages of it that are never used need no memory. */
    memset(core, 0, offsetof(struct hb_core, queue));
    core->node = node;
    core->boot = boot;
    memcpy(core->key, key, HB_KEY_BYTES);
    core->key_number = key_number;
    core->watch_ms = -1;
}

struct hb_peer *
hb_find(struct hb_core *core, uint16_t node)
{
    for (size_t at = 0; at < core->peer_count; at++)
        if (core->peers[at].node == node)
            return &core->peers[at];
    return NULL;
}

static bool
contains(const uint16_t *nodes, size_t count, uint16_t node)
{
    for (size_t at = 0; at < count; at++)
        if (nodes[at] == node)
            return true;
    return false;
}

bool
hb_set_peers(struct hb_core *core, const uint16_t *nodes, size_t count, int64_t now_ms)
{
    size_t fresh = 0;
    for (size_t at = 0; at < count; at++)
        fresh += hb_find(core, nodes[at]) == NULL;
    if (count > HB_NODES_MAX || core->peer_count + fresh > HB_PEERS_MAX)
        return false;
    for (size_t at = 0; at < core->peer_count; at++)
        core->peers[at].known = core->peers[at].known && contains(nodes, count, core->peers[at].node);
    for (size_t at = 0; at < count; at++) {
        struct hb_peer *peer = hb_find(core, nodes[at]);
        if (peer != NULL && peer->known)
            continue;
        if (peer == NULL) {
            peer = &core->peers[core->peer_count++];
            memset(peer, 0, sizeof *peer);
            peer->node = nodes[at];
        }
        /* Account of it is kept from now on: nothing is said of the time before. */
        peer->known = true;
        peer->watched = peer->ever_heard = false;
        peer->networks = peer->covered = 0;
        peer->acknowledged_seq = 0;
        peer->gap_max_ms = 0;
        peer->quiet_from_ms = now_ms;
        for (unsigned network = 0; network < HB_NETWORKS_MAX; network++)
            peer->heard_ms[network] = -1;
    }
    return true;
}

void
hb_watch(struct hb_core *core, const uint16_t *nodes, size_t count, int64_t watch_ms)
{
    core->watch_ms = watch_ms;
    for (size_t at = 0; at < core->peer_count; at++)
        core->peers[at].watched = contains(nodes, count, core->peers[at].node);
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

void
hb_vouch(struct hb_core *core, const struct hb_content *content, int64_t until_ms, int64_t grants_until_ms, bool probe)
{
    core->vouched = true;
    core->vouched_until_ms = until_ms;
    core->grants_until_ms = grants_until_ms;
    core->content = *content;
    core->probe = probe;
}

static uint32_t
silent_ms(const struct hb_peer *peer, int64_t now_ms)
{
    int64_t silent = now_ms - peer->quiet_from_ms;
    /* Longer silences are written as 49 days, which only makes them shorter than they are. */
    return silent < 0 ? 0 : silent > UINT32_MAX ? UINT32_MAX : (uint32_t)silent;
}

/* All that comes before the hearings but their count. */
static uint8_t *
put_head(const struct hb_core *core, const struct hb_content *content, uint64_t seq, uint8_t flags, uint8_t *at)
{
    memcpy(at, magic, sizeof magic);
    at += sizeof magic;
    at = put(at, VERSION, 1);
    at = put(at, core->key_number, 1);
    at = put(at, core->node, 2);
    at = put(at, core->boot, 8);
    at = put(at, content->incarnation, 8);
    at = put(at, seq, 8);
    at = put(at, content->phase, 1);
    at = put(at, flags, 1);
    at = put(at, content->attempt, 4);
    at = put(at, content->index, 8);
    return put(at, content->voters_version, 4);
}

size_t
hb_compose(struct hb_core *core, int64_t now_ms, uint8_t out[HB_DATAGRAM_BYTES_MAX])
{
    if (!core->vouched || now_ms >= core->vouched_until_ms)
        return 0;
    core->seq++;
    core->composed++;
    core->sent[core->seq % HB_SENT_MAX].seq = core->seq;
    core->sent[core->seq % HB_SENT_MAX].ms = now_ms;

    uint8_t flags = (core->probe ? HB_FLAG_PROBE : 0) | (now_ms < core->grants_until_ms ? HB_FLAG_GRANTS : 0);
    uint8_t *at = put_head(core, &core->content, core->seq, flags, out);
    uint8_t *count = at++;
    *count = 0;
    for (size_t number = 0; number < core->peer_count; number++) {
        const struct hb_peer *peer = &core->peers[number];
        if (!peer->known)
            continue;
        ++*count;
        at = put(at, peer->node, 2);
        at = put(at, peer->ever_heard ? peer->boot : 0, 4);
        at = put(at, peer->ever_heard ? peer->seq : 0, 4);
        at = put(at, silent_ms(peer, now_ms), 4);
        at = put(at, peer->networks, 1);
    }
    core->probe = false;
    siphash128(core->key, out, (size_t)(at - out), at);
    return (size_t)(at - out) + HB_TAG_BYTES;
}

size_t
hb_compose_will(const struct hb_core *core, uint64_t incarnation, uint8_t out[HB_DATAGRAM_BYTES_MAX])
{
    const struct hb_content content = {.incarnation = incarnation, .phase = HB_PHASE_STOPPED};
    uint8_t *at = put_head(core, &content, UINT64_MAX, 0, out);
    at = put(at, 0, 1);
    siphash128(core->key, out, (size_t)(at - out), at);
    return (size_t)(at - out) + HB_TAG_BYTES;
}

bool
hb_covered(const struct hb_core *core, const struct hb_peer *peer, unsigned address)
{
    return address < HB_NETWORKS_MAX && (peer->covered >> address & 1) &&
           core->seq - peer->acknowledged_seq <= COVERED_SEQ_MAX;
}

/* --- receiving ---------------------------------------------------------------------------------------------------- */

static int64_t
sent_ms(const struct hb_core *core, uint64_t seq)
{
    return core->sent[seq % HB_SENT_MAX].seq == seq ? core->sent[seq % HB_SENT_MAX].ms : -1;
}

/* A record in the queue: u32 bytes of the datagram, i64 arrival, i64 acknowledged, datagram without its tag. */
#define RECORD_HEAD 20

static void
queue_copy_in(struct hb_core *core, size_t place, const uint8_t *data, size_t length)
{
    size_t at = (core->queue_head + place) % HB_QUEUE_BYTES, first = HB_QUEUE_BYTES - at;
    if (first > length)
        first = length;
    memcpy(core->queue + at, data, first);
    memcpy(core->queue, data + first, length - first);
}

static void
queue_copy_out(const struct hb_core *core, size_t place, uint8_t *data, size_t length)
{
    size_t at = (core->queue_head + place) % HB_QUEUE_BYTES, first = HB_QUEUE_BYTES - at;
    if (first > length)
        first = length;
    memcpy(data, core->queue + at, first);
    memcpy(data + first, core->queue, length - first);
}

static void
queue_forget_oldest(struct hb_core *core)
{
    uint8_t head[4];
    queue_copy_out(core, 0, head, sizeof head);
    size_t whole = RECORD_HEAD + (size_t)get(head, 4);
    core->queue_head = (core->queue_head + whole) % HB_QUEUE_BYTES;
    core->queue_used -= whole;
    core->queue_records--;
    if (!core->queue_used)
        core->queue_head = 0; /* Memory that was never needed is never touched. */
}

static void
queue_add(struct hb_core *core, const uint8_t *data, size_t length, int64_t received_ms, int64_t acknowledged_ms)
{
    while (core->queue_used + RECORD_HEAD + length > HB_QUEUE_BYTES) {
        queue_forget_oldest(core);
        core->overflowed++;
    }
    uint8_t head[RECORD_HEAD];
    put(put(put(head, length, 4), (uint64_t)received_ms, 8), (uint64_t)acknowledged_ms, 8);
    queue_copy_in(core, core->queue_used, head, RECORD_HEAD);
    queue_copy_in(core, core->queue_used + RECORD_HEAD, data, length);
    core->queue_used += RECORD_HEAD + length;
    core->queue_records++;
}

static void
read_content(const uint8_t *data, struct hb_content *content)
{
    content->incarnation = get(data + 16, 8);
    content->phase = data[32];
    content->attempt = (uint32_t)get(data + 34, 4);
    content->index = get(data + 38, 8);
    content->voters_version = (uint32_t)get(data + 46, 4);
}

/* Whether the service should look at this now: the peer says something new, or somebody who is watched is silent. */
static bool
is_news(struct hb_core *core, const struct hb_peer *peer, const struct hb_content *content, bool new_boot,
        const uint8_t *hearings, size_t count, int64_t now_ms)
{
    if (new_boot || content->phase != peer->content.phase || content->attempt != peer->content.attempt ||
        content->incarnation != peer->content.incarnation || content->voters_version != peer->content.voters_version)
        return true;
    if (core->watch_ms < 0)
        return false;
    if (core->watch_ms == 0)
        return true;
    for (size_t at = 0; at < count; at++, hearings += HB_HEARING_BYTES) {
        const struct hb_peer *other = hb_find(core, (uint16_t)get(hearings, 2));
        if (other != NULL && other->known && other->watched && (int64_t)get(hearings + 10, 4) >= core->watch_ms &&
            now_ms - other->quiet_from_ms >= core->watch_ms)
            return true;
    }
    return false;
}

enum hb_outcome
hb_receive(struct hb_core *core, const uint8_t *data, size_t length, int64_t received_ms, unsigned network,
           bool multicast, struct hb_heard *heard)
{
    enum hb_outcome outcome = HB_RECEIVED;
    uint8_t tag[HB_TAG_BYTES];
    struct hb_peer *peer = NULL;
    heard->news = heard->answer = false;

    if (length > HB_DATAGRAM_BYTES_MAX)
        outcome = HB_TOO_LONG;
    else if (length < HB_HEADER_BYTES + HB_CONTENT_BYTES + HB_TAG_BYTES)
        outcome = HB_TOO_SHORT;
    else if (memcmp(data, magic, sizeof magic) != 0 || data[4] != VERSION)
        outcome = HB_FOREIGN;
    else if (data[5] != core->key_number)
        outcome = HB_WRONG_KEY_NUMBER;
    else {
        length -= HB_TAG_BYTES;
        siphash128(core->key, data, length, tag);
        size_t count = data[50];
        if (!equal_in_constant_time(tag, data + length, HB_TAG_BYTES))
            outcome = HB_FORGED;
        else if (data[32] >= HB_PHASES || count > HB_NODES_MAX ||
                 length != HB_HEADER_BYTES + HB_CONTENT_BYTES + count * HB_HEARING_BYTES)
            outcome = HB_MALFORMED;
        else if ((peer = hb_find(core, (uint16_t)get(data + 6, 2))) == NULL || !peer->known)
            outcome = HB_STRANGER;
    }
    if (outcome != HB_RECEIVED || peer == NULL) {
        core->outcomes[outcome]++;
        return outcome;
    }

    uint64_t boot = get(data + 8, 8), seq = get(data + 24, 8);
    uint8_t came_by = multicast && network < HB_NETWORKS_MAX ? (uint8_t)(1u << network) : 0;
    if (boot < peer->boot || (boot == peer->boot && seq <= peer->seq)) {
        outcome = boot == peer->boot && seq == peer->seq ? HB_DUPLICATE : HB_REPLAYED;
        if (outcome == HB_DUPLICATE) {
            peer->networks |= came_by;
            if (network < HB_NETWORKS_MAX && peer->ever_heard && peer->content.phase != HB_PHASE_STOPPED)
                peer->heard_ms[network] = received_ms;
        }
        core->outcomes[outcome]++;
        return outcome;
    }

    const uint8_t *hearings = data + HB_HEADER_BYTES + HB_CONTENT_BYTES;
    size_t count = data[50];
    int64_t acknowledged_ms = -1;
    peer->covered = 0;
    for (size_t at = 0; at < count; at++) {
        const uint8_t *hearing = hearings + at * HB_HEARING_BYTES;
        uint64_t newest = get(hearing + 6, 4);
        if (get(hearing, 2) == core->node && get(hearing + 2, 4) == (uint32_t)core->boot && newest) {
            acknowledged_ms = sent_ms(core, newest);
            peer->acknowledged_seq = newest;
            peer->covered = hearing[14];
            break;
        }
    }
    struct hb_content content;
    read_content(data, &content);
    bool new_boot = !peer->ever_heard || boot != peer->boot, lives = content.phase != HB_PHASE_STOPPED;
    if (!new_boot && lives && received_ms - peer->quiet_from_ms > peer->gap_max_ms)
        peer->gap_max_ms = received_ms - peer->quiet_from_ms;
    peer->boot = boot;
    peer->seq = seq;
    if (lives) {
        peer->ever_heard = true;
        peer->networks = came_by;
        if (received_ms > peer->quiet_from_ms)
            peer->quiet_from_ms = received_ms;
        if (network < HB_NETWORKS_MAX)
            peer->heard_ms[network] = received_ms;
    }
    heard->news = is_news(core, peer, &content, new_boot, hearings, count, received_ms);
    heard->answer = (data[33] & HB_FLAG_PROBE) != 0;
    peer->content = content;
    queue_add(core, data, length, received_ms, acknowledged_ms);
    core->outcomes[HB_RECEIVED]++;
    return HB_RECEIVED;
}

bool
hb_take(struct hb_core *core, struct hb_record *record)
{
    if (!core->queue_records)
        return false;
    uint8_t head[RECORD_HEAD], data[HB_DATAGRAM_BYTES_MAX];
    queue_copy_out(core, 0, head, RECORD_HEAD);
    size_t length = (size_t)get(head, 4);
    record->received_ms = (int64_t)get(head + 4, 8);
    record->acknowledged_ms = (int64_t)get(head + 12, 8);
    queue_copy_out(core, RECORD_HEAD, data, length);
    queue_forget_oldest(core);

    record->sender = (uint16_t)get(data + 6, 2);
    record->boot = get(data + 8, 8);
    record->seq = get(data + 24, 8);
    read_content(data, &record->content);
    record->grants = (data[33] & HB_FLAG_GRANTS) != 0;
    record->count = data[50];
    for (size_t number = 0; number < record->count; number++) {
        const uint8_t *at = data + HB_HEADER_BYTES + HB_CONTENT_BYTES + number * HB_HEARING_BYTES;
        record->heard[number].node = (uint16_t)get(at, 2);
        record->heard[number].boot = (uint32_t)get(at + 2, 4);
        record->heard[number].seq = (uint32_t)get(at + 6, 4);
        record->heard[number].silent_ms = (uint32_t)get(at + 10, 4);
    }
    return true;
}
