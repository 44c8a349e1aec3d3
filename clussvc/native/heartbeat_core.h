/*
 * Heartbeats without clock, thread or socket: what a node says, what it has heard, and what it makes of a datagram.
 *
 * The thread around it (heartbeat_thread.c) only adds the time and the network; the simulator and the fuzzer use this
 * core as it is. All times are milliseconds of CLOCK_BOOTTIME on this machine.
 *
 * A heartbeat is one datagram, little-endian:
 *
 *   4s "CLHB"  u8 version  u8 key number  u16 sender  u64 boot  u64 incarnation  u64 sequence number
 *   u8 phase  u8 flags  u32 attempt  u64 index  u32 voters version  u8 count
 *   count times:  u16 node  u32 boot  u32 sequence number  u32 silent_ms  u8 networks
 *   16s tag (SipHash-2-4-128 over everything before it, under the cluster's key)
 *
 * `networks` has a bit for each of the hearer's addresses: the newest heartbeat of that node came there by multicast, so
 * the next one need not be sent there by unicast as well.
 *
 * Invariants:
 *  - nothing of a datagram is used before its tag has been found right; nothing is used of one that is not newer than
 *    what its sender is known to have sent (boot first, then sequence number);
 *  - a heartbeat is composed only while the core of the service vouches for itself (hb_vouch);
 *  - the last will of a boot (hb_compose_will) is newer than every heartbeat of it, acknowledges nothing, and is no sign
 *    of life: no silence ends with it;
 *  - the time of sending is noted before anything is sent, the time of arrival after it was read: either error can only
 *    make leases and silences shorter than they are;
 *  - all memory is in struct hb_core; what does not fit into its queue pushes out the oldest, which is counted.
 */

#ifndef CLUSSVC_HEARTBEAT_CORE_H
#define CLUSSVC_HEARTBEAT_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HB_NODES_MAX 64      /* Of one cluster. */
#define HB_PEERS_MAX 256     /* Nodes that are or were in it, whose numbers are remembered against replay. */
#define HB_NETWORKS_MAX 8    /* Addresses of one node. */
#define HB_SENT_MAX 256      /* Heartbeats whose time of sending is remembered; 5 s at the fastest profile. */
#define HB_PHASES 6          /* Phases of a node; larger numbers are malformed. */
#define HB_PHASE_STOPPED 5   /* The last of them: said by a last will alone. */
#define HB_QUEUE_BYTES 524288 /* Half a second of 64 nodes at the default profile. */

#define HB_HEADER_BYTES 32
#define HB_CONTENT_BYTES 19
#define HB_HEARING_BYTES 15
#define HB_TAG_BYTES 16
#define HB_KEY_BYTES 16
#define HB_DATAGRAM_BYTES_MAX (HB_HEADER_BYTES + HB_CONTENT_BYTES + HB_NODES_MAX * HB_HEARING_BYTES + HB_TAG_BYTES)

#define HB_FLAG_PROBE 1  /* The sender wants an answer at once. */
#define HB_FLAG_GRANTS 2 /* The sender owns the quorum disk: its word grants a lease. */

/* What became of a datagram; the names are hb_outcome_names. */
enum hb_outcome {
    HB_RECEIVED,
    HB_DUPLICATE, /* The newest heartbeat once more, on another network or by multicast. */
    HB_TOO_SHORT,
    HB_TOO_LONG,
    HB_FOREIGN, /* Not a heartbeat of this product or of this version. */
    HB_WRONG_KEY_NUMBER,
    HB_FORGED, /* The tag does not fit: another cluster's, or somebody's invention. */
    HB_MALFORMED,
    HB_STRANGER, /* A node that this one does not know, or this node itself. */
    HB_REPLAYED,
    HB_OUTCOMES,
};

extern const char *const hb_outcome_names[HB_OUTCOMES];

/* What the service says of itself. */
struct hb_content {
    uint64_t incarnation;
    uint64_t index;
    uint32_t attempt;
    uint32_t voters_version;
    uint8_t phase;
};

struct hb_peer {
    uint16_t node;
    bool known; /* In the configuration now; others are remembered against replay alone. */
    bool watched;
    bool ever_heard;
    uint8_t networks; /* Where the newest heartbeat came by multicast. */
    uint8_t covered;  /* The same as the peer says of this node's newest heartbeat. */
    uint64_t boot, seq;
    uint64_t acknowledged_seq; /* The newest of ours that it has heard. */
    int64_t quiet_from_ms;
    int64_t gap_max_ms; /* The longest time between two of its heartbeats since somebody asked. */
    int64_t heard_ms[HB_NETWORKS_MAX]; /* The newest arrival at each of our addresses; -1: none. */
    struct hb_content content;
};

struct hb_core {
    uint16_t node;
    uint64_t boot;
    uint8_t key[HB_KEY_BYTES];
    uint8_t key_number;

    bool vouched;
    int64_t vouched_until_ms;
    int64_t grants_until_ms; /* What is said until then grants leases. */
    int64_t watch_ms; /* A silence from which on every report of it is news; negative: none is, 0: everything is. */
    struct hb_content content;
    bool probe;

    uint64_t seq;
    struct {
        uint64_t seq;
        int64_t ms;
    } sent[HB_SENT_MAX];

    struct hb_peer peers[HB_PEERS_MAX];
    size_t peer_count;

    size_t queue_head, queue_used; /* A ring of records; see hb_take. */
    size_t queue_records;

    uint64_t outcomes[HB_OUTCOMES];
    uint64_t overflowed; /* Heartbeats that the service has not taken in time. */
    uint64_t composed;

    uint8_t queue[HB_QUEUE_BYTES]; /* Last: what comes before it is set to zero at the beginning. */
};

/* What hb_receive says besides the outcome. */
struct hb_heard {
    bool news;    /* The service should look at it now, and not only at its next turn. */
    bool answer;  /* The sender wants a heartbeat at once. */
};

/* One heartbeat as it was heard; hearings lie behind it in the datagram. */
struct hb_record {
    int64_t received_ms;
    int64_t acknowledged_ms; /* When the newest of our heartbeats that it acknowledges was sent; -1: none known. */
    uint16_t sender;
    uint64_t boot, seq;
    struct hb_content content;
    bool grants;
    size_t count;
    struct {
        uint16_t node;
        uint32_t boot, seq, silent_ms;
    } heard[HB_NODES_MAX];
};

void hb_init(struct hb_core *core, uint16_t node, uint64_t boot, const uint8_t key[HB_KEY_BYTES], uint8_t key_number);

/* The other nodes of the cluster from now on; false, and nothing changed, if there are too many. */
bool hb_set_peers(struct hb_core *core, const uint16_t *nodes, size_t count, int64_t now_ms);

/* Which of them are watched: their silence is news from watch_ms on. */
void hb_watch(struct hb_core *core, const uint16_t *nodes, size_t count, int64_t watch_ms);

/* The service vouches for itself until then; what it says is sent until then, and grants leases until grants_until_ms. */
void hb_vouch(struct hb_core *core, const struct hb_content *content, int64_t until_ms, int64_t grants_until_ms,
              bool probe);

/* Writes the next heartbeat; 0 bytes if nobody vouches for it. */
size_t hb_compose(struct hb_core *core, int64_t now_ms, uint8_t out[HB_DATAGRAM_BYTES_MAX]);

/* Writes what may be sent on behalf of this boot when its process is gone and nothing of that incarnation runs. */
size_t hb_compose_will(const struct hb_core *core, uint64_t incarnation, uint8_t out[HB_DATAGRAM_BYTES_MAX]);

/* Takes in a datagram that was read at one of our addresses (network), by multicast or not. */
enum hb_outcome hb_receive(struct hb_core *core, const uint8_t *data, size_t length, int64_t received_ms,
                           unsigned network, bool multicast, struct hb_heard *heard);

/* Takes the oldest heartbeat out of the queue; false if there is none. */
bool hb_take(struct hb_core *core, struct hb_record *record);

/* Whether the peer is known to have got one of the last heartbeats by multicast at that address of its own. */
bool hb_covered(const struct hb_core *core, const struct hb_peer *peer, unsigned address);

struct hb_peer *hb_find(struct hb_core *core, uint16_t node);

#endif
