/* Limits and words of the packet filter, with their reasons. */

#ifndef CLUSSVC_NLB_CONSTS_H
#define CLUSSVC_NLB_CONSTS_H

#define NLB_HOSTS_MAX 32      /* Hosts of one cluster; a host is a number in 1..32, as published. */
#define NLB_RULES_MAX 32      /* Port rules of one cluster, as published. */
#define NLB_SLOTS 33          /* Rules, and the default rule behind them. */
#define NLB_SLOT_DEFAULT 32
#define NLB_SLOT_NONE 255     /* In a decision: no rule was looked for. */
#define NLB_BUCKETS_MAX 1024  /* A power of two, so that one mask keeps an index inside; the larger count in use is 960. */
#define NLB_ADDRESSES_MAX 64  /* Virtual addresses, and as many dedicated ones. */
#define NLB_TARGETS 129       /* All of them, and none at place 0. */
#define NLB_FOLDS 4096        /* Enough that 128 addresses find places of their own after a few hundred trials. */
#define NLB_LISTS 33          /* Every list of rules that an address can have: that of all addresses, and its own. */
#define NLB_RANGES 64         /* Of ports in one list: 32 rules cut each other into 63 pieces at most. */
#define NLB_HEADERS_MAX 6     /* Extension headers of IPv6 that are walked through; RFC 8200 has each once. */

/* The byte of a bucket. */
#define NLB_DIRTY 0x80 /* Of an own one: another host still has connections of it. */
#define NLB_KEPT 0x40  /* Of another's: this host may still have connections of it. */
#define NLB_OWNER 0x3f /* The host that owns it; 0 is nobody. */

/* What the host takes part in. */
#define NLB_STOPPED 0         /* Takes nothing for virtual addresses: not started, suspended, or without quorum. */
#define NLB_RUNNING 1

#define NLB_FLAG_FILTER_ICMP 1 /* Echo requests and the like are shared; otherwise every host takes them. */
#define NLB_FLAG_REVERSE 2     /* Source and destination change their parts: the other side of a team (BDA). */
#define NLB_FLAG_TRANSIT 4     /* What is sent to the cluster's link address for any address is shared as well. */
#define NLB_FLAG_REWRITE 8     /* The cluster's link address is replaced by the adapter's own in what is accepted. */

#define NLB_TCP 1 /* Protocols of a rule; a set of bits. */
#define NLB_UDP 2

#define NLB_MULTIPLE 0
#define NLB_SINGLE 1
#define NLB_DISABLED 2
#define NLB_DEFAULT 3 /* The mode of the default rule. */

#define NLB_AFFINITY_NONE 0    /* Address and port of the client are hashed. */
#define NLB_AFFINITY_SINGLE 1  /* Its address. */
#define NLB_AFFINITY_NETWORK 2 /* The first 24 bits of its IPv4 address, the first 64 of its IPv6 address. */

#define NLB_RULE_CUT 1 /* This host takes nothing of the rule, not even what it knows: the command "disable". */

/* Sorts of addresses that the table knows. */
#define NLB_VIRTUAL 1
#define NLB_DEDICATED 2

#define NLB_PORT_PPTP 1723
#define NLB_PORT_IKE 500
#define NLB_PORT_IKE_NAT 4500

/* Flow tables: what they hold, how they are bounded. */
#define NLB_FLOWS_OPENING 0  /* A first packet was accepted, no second one yet. A flood of SYNs fills this one alone. */
#define NLB_FLOWS_OPEN 1
#define NLB_FLOWS_FRAGMENTS 2 /* What became of the first fragment of a datagram. */
#define NLB_FLOW_TABLES 3
#define NLB_WAYS 16 /* Places of a set: nlb_sets.h. */
#define NLB_OPENING_SETS 1024
#define NLB_FRAGMENT_SETS 256
#define NLB_OPEN_SETS_MAX (1u << 17)

enum nlb_flow_state {
    NLB_UNKNOWN,
    NLB_OPENING,
    NLB_OPEN,
    NLB_CLOSING, /* A FIN was seen; what follows is the rest of the connection. */
    NLB_FRAGMENT_ACCEPTED,
    NLB_FRAGMENT_DROPPED,
};

enum nlb_verdict {
    NLB_PASS,   /* Not for the cluster: as if there were no filter. */
    NLB_ACCEPT, /* For the cluster, and this host takes it. */
    NLB_DROP,
};

/* Why: name, verdict, text. The order is that of the counters, so new ones go to the end. */
#define NLB_REASONS(X) \
    X(NOT_IP, PASS, "not-ip") \
    X(OTHER_ADDRESS, PASS, "other-address") \
    X(DEDICATED, PASS, "dedicated-address") \
    X(BUCKET_OWNER, ACCEPT, "bucket-owner") \
    X(SINGLE_HOST, ACCEPT, "single-host") \
    X(DEFAULT_HOST, ACCEPT, "default-host") \
    X(KNOWN_CONNECTION, ACCEPT, "known-connection") \
    X(KNOWN_SESSION, ACCEPT, "known-session") \
    X(ICMP_EVERYWHERE, ACCEPT, "icmp-everywhere") \
    X(NEIGHBOUR, ACCEPT, "neighbour-discovery") \
    X(FRAGMENT_FOLLOWS, ACCEPT, "fragment-follows") \
    X(FRAGMENT_UNPLACED, ACCEPT, "fragment-unplaced") \
    X(MALFORMED, DROP, "malformed") \
    X(TOO_MANY_HEADERS, DROP, "too-many-headers") \
    X(STOPPED, DROP, "stopped") \
    X(RULE_DISABLED, DROP, "rule-disabled") \
    X(RULE_CUT, DROP, "rule-disabled-here") \
    X(OTHER_BUCKET, DROP, "bucket-of-another") \
    X(NOT_SINGLE_HOST, DROP, "not-single-host") \
    X(NOT_DEFAULT_HOST, DROP, "not-default-host") \
    X(NOBODY, DROP, "nobody-owns") \
    X(DIRTY, DROP, "dirty-bucket") \
    X(OTHER_FRAGMENT, DROP, "fragment-of-another")

#define NLB_REASON_VALUE(name, verdict, text) NLB_REASON_##name,
enum nlb_reason { NLB_REASONS(NLB_REASON_VALUE) NLB_REASON_COUNT };
/* Counters of rules that there is room for; a power of two. A rule that goes keeps its own for as long as there is room. */
#define NLB_RULE_COUNTS 128
#define NLB_COUNTS 32 /* Counters that there is room for; a power of two, no less than the reasons. */

#endif
