/*
 * The values that the filter works on, laid out alike in the extension and in the kernel.
 *
 * Addresses are 16 bytes in network order, those of IPv4 as ::ffff:w.x.y.z; ports are numbers in the machine's order.
 */

#ifndef CLUSSVC_NLB_STRUCTS_H
#define CLUSSVC_NLB_STRUCTS_H

#include "nlb_consts.h"
#include "siphash.h"

struct nlb_address {
    uint64_t high, low; /* The bytes as they lie in memory. */
};

/* One connection, session or fragmented datagram. Without padding: it is compared and hashed as bytes. */
struct nlb_key {
    struct nlb_address client, server;
    uint16_t client_port, server_port; /* Of a datagram in fragments: its identification, lower and upper half. */
    uint8_t protocol;                  /* Of IP; all that belongs to one IPsec session has that of ESP. */
    uint8_t fragments;                 /* 1: a fragmented datagram. */
    uint8_t zero[2];
};

struct nlb_flow {
    uint64_t seen_ticks; /* When a packet of it was last noted. */
    uint64_t state;   /* enum nlb_flow_state */
};

/*
 * How the flow tables in the kernel name a flow: in 16 bytes, since hashing and comparing 40 takes longer than all the
 * rest. For IPv4 it is the flow itself. For IPv6 it is a keyed hash of it, so nobody outside can make two of them meet, and
 * the lowest bit is set, so neither meets one of IPv4.
 */
struct nlb_name {
    uint64_t high, low;
    uint64_t spot; /* A keyed hash of both: the upper half says where to look, the lower has the tag (nlb_sets.h). */
};

/* A set of places for flows. Dates, states and tags lie together, and so do names: few lines of the processor's memory
   tell who is there. */
struct nlb_set {
    uint64_t noted[NLB_WAYS]; /* 0: an empty place. */
    struct {
        uint64_t high, low;
    } names[NLB_WAYS];
    struct nlb_key keys[NLB_WAYS]; /* Only for IPv6, where the name does not tell whose flow it is. */
};

/* An address that the table knows. */
struct nlb_target {
    struct nlb_address address;
    uint8_t sort; /* NLB_VIRTUAL, NLB_DEDICATED; 0: none. */
    uint8_t list; /* Of a virtual address: its rules. */
    uint8_t zero[6];
};

/* The rules of one address and protocol as ranges of ports that do not meet, lowest first. */
struct nlb_ranges {
    uint32_t first[NLB_RANGES]; /* Unused places have 65536, beyond every port. */
    uint32_t eighth[8];         /* Every eighth of them. */
    uint16_t last[NLB_RANGES];
    uint8_t slot[NLB_RANGES];
};

struct nlb_rule {
    uint8_t mode, affinity, flags;
    uint8_t counter; /* Its place among the counters of rules. */
};

struct nlb_rule_count {
    uint64_t accepted, dropped;
};

/* All that a decision depends on, besides the packet and what is known of its flow. Never changed: replaced whole. */
struct nlb_table {
    uint64_t generation;
    uint64_t seed[2]; /* Of the hash; equal on all hosts. */
    uint64_t set_keys[5], tag_keys[5]; /* Made from the seed; of the hash of a flow's name in the kernel. */
    uint64_t fold;    /* With which every known address has a place of its own in `places`. */
    uint64_t opening_ticks, idle_ticks, closing_ticks, gre_ticks, ipsec_ticks, fragment_ticks;
    /* Above: after which a flow is forgotten. Below: for how long a flow in use need not be noted anew. */
    uint64_t touch_ticks;
    uint16_t buckets; /* Of each rule, 1..NLB_BUCKETS_MAX. */
    uint8_t self;     /* This host. */
    uint8_t state;
    uint8_t flags;
    uint8_t zero[3];
    uint8_t cluster_mac[8], own_mac[8]; /* Two bytes of zero behind each. */
    uint8_t icmp_slot[NLB_LISTS + 7];   /* For each list, the rule whose hosts share ICMP. */
    struct nlb_rule rules[NLB_SLOTS];
    uint32_t open_sets; /* In the kernel, those for open connections: a power of two. */
    struct nlb_target targets[NLB_TARGETS];
    uint8_t places[NLB_FOLDS];               /* The target that may be meant; 0: none. */
    struct nlb_ranges ranges[NLB_LISTS * 2]; /* List 0 has the rules of all addresses; TCP, then UDP. */
    uint8_t bucket[NLB_SLOTS * NLB_BUCKETS_MAX]; /* The owner, NLB_DIRTY, NLB_KEPT. */
};

/* What a frame turned out to be. */
enum nlb_kind {
    NLB_KIND_SETTLED, /* Decided already. */
    NLB_KIND_TCP,
    NLB_KIND_UDP,
    NLB_KIND_SESSION, /* GRE, or anything of IPsec. */
    NLB_KIND_ICMP,    /* Shared by the client's address. */
    NLB_KIND_QUOTED,  /* An ICMP error: goes where the connection is that it quotes. */
    NLB_KIND_OTHER,
    NLB_KIND_FRAGMENT, /* Not the first one. */
};

#define NLB_PACKET_OPENS 1 /* The first packet of a connection or session. */
#define NLB_PACKET_FIN 2
#define NLB_PACKET_RST 4
#define NLB_PACKET_FIRST_FRAGMENT 8
#define NLB_PACKET_TO_CLUSTER 16 /* Its link address is the cluster's. */
#define NLB_PACKET_IPV6 32

struct nlb_packet {
    struct nlb_key key;
    uint32_t fragment_id;
    uint16_t rule_port;
    uint8_t rule_protocol; /* NLB_TCP or NLB_UDP: looked for among the rules; 0: not. */
    uint8_t kind;
    uint8_t verdict, reason; /* Of a settled one. */
    uint8_t flags;
    uint8_t list;
    uint8_t transit;           /* For none of our addresses, but sent to the cluster. */
    uint8_t fragment_protocol; /* By which all fragments of a datagram go together. */
};

/* What is to be noted of a flow after a decision. */
enum nlb_note {
    NLB_NOTE_NOTHING,
    NLB_NOTE_OPENING, /* A new flow, in the table of openings. */
    NLB_NOTE_OPEN,    /* A new flow, or one whose second packet came. */
    NLB_NOTE_TOUCH,
    NLB_NOTE_CLOSE,
    NLB_NOTE_FORGET,
};

struct nlb_decision {
    uint8_t verdict; /* enum nlb_verdict */
    uint8_t reason;  /* enum nlb_reason */
    uint8_t slot;    /* The rule, NLB_SLOT_DEFAULT, or NLB_SLOT_NONE. */
    uint8_t owner;   /* The host that owns the bucket; 0: nobody, or no rule was looked for. */
    uint16_t bucket;
    uint8_t rewrite; /* The link address is to be replaced by the adapter's own. */
    uint8_t known;   /* enum nlb_flow_state: what was known of the flow. */
    uint8_t note;    /* enum nlb_note */
};

/* What a decision needs room for while it is made. */
struct nlb_work {
    struct nlb_packet packet;
    struct nlb_key key;
    struct nlb_name name;
    struct nlb_decision decision;
    struct sip client; /* The state of the hash after the client's IPv6 address. */
};

/* In the kernel, of each processor: its counters, and its room for work. */
struct nlb_cpu {
    uint64_t counts[NLB_COUNTS];
    struct nlb_rule_count rule_counts[NLB_RULE_COUNTS];
    struct nlb_work work;
    struct nlb_flow found; /* What a set says of a flow. */
};

#endif
