/* See nlb_filter.h. Included by those who bring the flow tables: xdp.c for the kernel, native.c for the extension. */

#include "nlb_filter.h"

#define NLB_ETHERNET_BYTES 14u
#define NLB_IPV4_BYTES 20u
#define NLB_IPV6_BYTES 40u

/* Protocols of IP. */
#define NLB_IP_ICMP 1
#define NLB_IP_TCP 6
#define NLB_IP_UDP 17
#define NLB_IP_GRE 47
#define NLB_IP_ESP 50
#define NLB_IP_AH 51
#define NLB_IP_ICMPV6 58

/* The bytes at an offset of the frame, or NULL if they are not all there. */
NLB_CODE const uint8_t *
nlb_at(const uint8_t *frame, uint32_t at, uint32_t bytes, const uint8_t *end)
{
#ifdef NLB_BPF
    const uint8_t *there = frame + at;
    return there + bytes <= end ? there : NULL;
#else
    return (size_t)(end - frame) >= (size_t)at + bytes ? frame + at : NULL;
#endif
}

NLB_CODE void
nlb_settle(struct nlb_packet *packet, uint8_t verdict, uint8_t reason)
{
    packet->kind = NLB_KIND_SETTLED;
    packet->verdict = verdict;
    packet->reason = reason;
}

/* --- addresses ---------------------------------------------------------------------------------------------------- */

/* Where an address may stand among those that the table knows. */
NLB_CODE uint32_t
nlb_fold(uint64_t fold, struct nlb_address address)
{
    return (uint32_t)((((address.high * 0x9e3779b97f4a7c15ull) ^ address.low) * fold) >> 52);
}

NLB_CODE int
nlb_same_address(struct nlb_address one, struct nlb_address other)
{
    return one.high == other.high && one.low == other.low;
}

/* Whether this is an IPv4 address in the form that the table has it. */
NLB_CODE int
nlb_is_ipv4(struct nlb_address address)
{
    return address.high == 0 && address.low == NLB_IPV4_LOW(NLB_IPV4_WORD(address.low));
}

/* Whose the destination is: true if the frame is to be shared among the hosts, with the list of rules. */
NLB_CODE int
nlb_is_shared(const struct nlb_table *table, struct nlb_address destination, int group, struct nlb_packet *packet)
{
    uint32_t number = table->places[NLB_BOUND(nlb_fold(table->fold, destination), NLB_FOLDS - 1)];
    if (number < NLB_TARGETS) {
        const struct nlb_target *target = &table->targets[number];
        if (target->sort != 0 && nlb_same_address(target->address, destination)) {
            if (target->sort == NLB_DEDICATED) {
                nlb_settle(packet, NLB_PASS, NLB_REASON_DEDICATED);
                return 0;
            }
            packet->list = target->list;
            return 1;
        }
    }
    if ((table->flags & NLB_FLAG_TRANSIT) && (packet->flags & NLB_PACKET_TO_CLUSTER) && !group) {
        packet->transit = 1;
        return 1;
    }
    nlb_settle(packet, NLB_PASS, NLB_REASON_OTHER_ADDRESS);
    return 0;
}

/* Client and server; in a reversed instance the one who is spoken to is the client. */
NLB_CODE void
nlb_set_ends(const struct nlb_table *table, struct nlb_packet *packet, struct nlb_address source,
             struct nlb_address destination)
{
    int reverse = table->flags & NLB_FLAG_REVERSE;
    packet->key.client = reverse ? destination : source;
    packet->key.server = reverse ? source : destination;
}

NLB_CODE void
nlb_set_ports(const struct nlb_table *table, struct nlb_packet *packet, uint16_t source, uint16_t destination)
{
    int reverse = table->flags & NLB_FLAG_REVERSE;
    packet->key.client_port = reverse ? destination : source;
    packet->key.server_port = reverse ? source : destination;
}

/* --- what a frame is ---------------------------------------------------------------------------------------------- */

/* All of a session is one flow of a client, without ports, and has the rule of the port that opens it. */
NLB_CODE void
nlb_set_session(struct nlb_packet *packet, uint8_t protocol, uint8_t rule_protocol, uint16_t rule_port)
{
    packet->kind = NLB_KIND_SESSION;
    packet->key.protocol = protocol;
    packet->key.client_port = 0;
    packet->key.server_port = 0;
    packet->rule_protocol = rule_protocol;
    packet->rule_port = rule_port;
}

NLB_CODE int
nlb_is_ike(const struct nlb_packet *packet)
{
    return packet->key.server_port == NLB_PORT_IKE || packet->key.server_port == NLB_PORT_IKE_NAT;
}

/* Kind, flow and rule of a packet of this protocol, whose ends and ports are set; false for other protocols. */
NLB_CODE int
nlb_classify(struct nlb_packet *packet, uint8_t protocol)
{
    packet->key.protocol = protocol;
    if (protocol == NLB_IP_TCP) {
        packet->kind = NLB_KIND_TCP;
        packet->rule_protocol = NLB_TCP;
        packet->rule_port = packet->key.server_port;
    } else if (protocol == NLB_IP_ESP || protocol == NLB_IP_AH || (protocol == NLB_IP_UDP && nlb_is_ike(packet)))
        nlb_set_session(packet, NLB_IP_ESP, NLB_UDP, NLB_PORT_IKE);
    else if (protocol == NLB_IP_UDP) {
        packet->kind = NLB_KIND_UDP;
        packet->rule_protocol = NLB_UDP;
        packet->rule_port = packet->key.server_port;
    } else if (protocol == NLB_IP_GRE)
        nlb_set_session(packet, NLB_IP_GRE, NLB_TCP, NLB_PORT_PPTP);
    else
        return 0;
    return 1;
}

/* Whether a datagram is the first message of IKE: only the initiator has a number yet. */
NLB_CODE int
nlb_opens_ike(const uint8_t *frame, uint32_t at, uint32_t limit, const uint8_t *end, uint16_t port)
{
    if (port == NLB_PORT_IKE_NAT) {
        const uint8_t *marker = at + 4 > limit ? NULL : nlb_at(frame, at, 4, end);
        if (marker == NULL || NLB_LOAD32(marker) != 0) /* ESP in UDP, or a byte that keeps the address translation. */
            return 0;
        at += 4;
    }
    const uint8_t *ike = at + 16 > limit ? NULL : nlb_at(frame, at, 16, end);
    return ike != NULL && NLB_LOAD64(ike) != 0 && NLB_LOAD64(ike + 8) == 0;
}

/* An ICMP error goes where the packet came from that it quotes: from us to the client. */
NLB_CODE int
nlb_parse_quoted(const struct nlb_table *table, const uint8_t *frame, uint32_t at, uint32_t limit, const uint8_t *end,
                 struct nlb_address destination, struct nlb_packet *packet)
{
    struct nlb_address source, target;
    uint8_t protocol;
    uint32_t ports_at;
    if (packet->flags & NLB_PACKET_IPV6) {
        const uint8_t *ip = at + NLB_IPV6_BYTES > limit ? NULL : nlb_at(frame, at, NLB_IPV6_BYTES, end);
        if (ip == NULL || ip[0] >> 4 != 6)
            return 0;
        source = (struct nlb_address){NLB_LOAD64(ip + 8), NLB_LOAD64(ip + 16)};
        target = (struct nlb_address){NLB_LOAD64(ip + 24), NLB_LOAD64(ip + 32)};
        protocol = ip[6];
        ports_at = at + NLB_IPV6_BYTES;
    } else {
        const uint8_t *ip = at + NLB_IPV4_BYTES > limit ? NULL : nlb_at(frame, at, NLB_IPV4_BYTES, end);
        if (ip == NULL || ip[0] >> 4 != 4 || (ip[0] & 15) < 5 || (NLB_BE16(NLB_LOAD16(ip + 6)) & 0x1fff))
            return 0;
        source = (struct nlb_address){0, NLB_IPV4_LOW(NLB_LOAD32(ip + 12))};
        target = (struct nlb_address){0, NLB_IPV4_LOW(NLB_LOAD32(ip + 16))};
        protocol = ip[9];
        ports_at = at + (ip[0] & 15) * 4u;
    }
    if (!nlb_same_address(source, destination))
        return 0;
    uint16_t source_port = 0, target_port = 0;
    if (protocol == NLB_IP_TCP || protocol == NLB_IP_UDP) {
        const uint8_t *ports = ports_at + 4 > limit ? NULL : nlb_at(frame, ports_at, 4, end);
        if (ports == NULL)
            return 0;
        source_port = NLB_BE16(NLB_LOAD16(ports));
        target_port = NLB_BE16(NLB_LOAD16(ports + 2));
    }
    /* The quoted packet went the other way, so its target has the part of our source. */
    nlb_set_ends(table, packet, target, source);
    nlb_set_ports(table, packet, target_port, source_port);
    if (!nlb_classify(packet, protocol))
        return 0;
    packet->kind = NLB_KIND_QUOTED;
    return 1;
}

NLB_CODE void
nlb_parse_icmp(const struct nlb_table *table, const uint8_t *frame, uint32_t at, uint32_t limit, const uint8_t *end,
               struct nlb_address source, struct nlb_address destination, struct nlb_packet *packet)
{
    const uint8_t *icmp = nlb_at(frame, at, 8, end);
    if (icmp == NULL) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    int type = icmp[0], error;
    if (packet->flags & NLB_PACKET_IPV6) {
        /* Neighbour, router and group messages concern the link; every host answers for itself. */
        if (!packet->transit && ((type >= 130 && type <= 137) || type == 143)) {
            nlb_settle(packet, NLB_ACCEPT, NLB_REASON_NEIGHBOUR);
            return;
        }
        error = type >= 1 && type <= 4;
    } else
        error = (type >= 3 && type <= 5) || type == 11 || type == 12;
    if (!packet->transit && !(table->flags & NLB_FLAG_FILTER_ICMP)) {
        nlb_settle(packet, NLB_ACCEPT, NLB_REASON_ICMP_EVERYWHERE);
        return;
    }
    if (error && nlb_parse_quoted(table, frame, at + 8, limit, end, destination, packet))
        return;
    packet->kind = NLB_KIND_ICMP;
    packet->key.protocol = packet->flags & NLB_PACKET_IPV6 ? NLB_IP_ICMPV6 : NLB_IP_ICMP;
    packet->key.client_port = packet->key.server_port = 0;
    packet->rule_protocol = 0;
    nlb_set_ends(table, packet, source, destination);
}

/* What lies behind the headers of IP; `limit` is where the packet ends by its own words. */
NLB_CODE void
nlb_parse_transport(const struct nlb_table *table, const uint8_t *frame, uint32_t at, uint32_t limit,
                    const uint8_t *end, uint8_t protocol, struct nlb_address source, struct nlb_address destination,
                    struct nlb_packet *packet)
{
    uint32_t bytes = protocol == NLB_IP_TCP   ? 20
                     : protocol == NLB_IP_AH  ? 12
                     : protocol == NLB_IP_GRE ? 4
                                              : 8; /* UDP, ESP, ICMP */
    int icmp = protocol == ((packet->flags & NLB_PACKET_IPV6) ? NLB_IP_ICMPV6 : NLB_IP_ICMP);
    int known = icmp || protocol == NLB_IP_TCP || protocol == NLB_IP_UDP || protocol == NLB_IP_GRE ||
                protocol == NLB_IP_ESP || protocol == NLB_IP_AH;
    if (!known) {
        packet->kind = NLB_KIND_OTHER;
        packet->key.protocol = protocol;
        return;
    }
    if (at + bytes > limit) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    if (icmp) {
        nlb_parse_icmp(table, frame, at, limit, end, source, destination, packet);
        return;
    }
    if (protocol == NLB_IP_TCP) {
        const uint8_t *tcp = nlb_at(frame, at, 20, end);
        if (tcp == NULL || tcp[12] >> 4 < 5) {
            nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
            return;
        }
        nlb_set_ports(table, packet, NLB_BE16(NLB_LOAD16(tcp)), NLB_BE16(NLB_LOAD16(tcp + 2)));
        uint8_t flags = tcp[13];
        if ((flags & 0x17) == 0x02) /* SYN, and neither FIN, RST nor ACK. */
            packet->flags |= NLB_PACKET_OPENS;
        if (flags & 0x01)
            packet->flags |= NLB_PACKET_FIN;
        if (flags & 0x04)
            packet->flags |= NLB_PACKET_RST;
    } else if (protocol == NLB_IP_UDP) {
        const uint8_t *udp = nlb_at(frame, at, 8, end);
        if (udp == NULL) {
            nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
            return;
        }
        nlb_set_ports(table, packet, NLB_BE16(NLB_LOAD16(udp)), NLB_BE16(NLB_LOAD16(udp + 2)));
        if (nlb_is_ike(packet) && nlb_opens_ike(frame, at + 8, limit, end, packet->key.server_port))
            packet->flags |= NLB_PACKET_OPENS;
    } else if (nlb_at(frame, at, bytes, end) == NULL) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    nlb_classify(packet, protocol);
}

NLB_CODE void
nlb_parse_ipv4(const struct nlb_table *table, const uint8_t *frame, const uint8_t *end, struct nlb_packet *packet)
{
    const uint8_t *ip = nlb_at(frame, NLB_ETHERNET_BYTES, NLB_IPV4_BYTES, end);
    if (ip == NULL || ip[0] >> 4 != 4) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    uint8_t first = ip[0], protocol = ip[9];
    uint16_t total = NLB_BE16(NLB_LOAD16(ip + 2)), fragment = NLB_BE16(NLB_LOAD16(ip + 6));
    uint16_t identification = NLB_BE16(NLB_LOAD16(ip + 4));
    uint32_t target = NLB_LOAD32(ip + 16);
    struct nlb_address source = {0, NLB_IPV4_LOW(NLB_LOAD32(ip + 12))}, destination = {0, NLB_IPV4_LOW(target)};
    if (!nlb_is_shared(table, destination, ip[16] >= 224, packet))
        return;
    if (table->state != NLB_RUNNING) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_STOPPED);
        return;
    }
    uint32_t header = (first & 15) * 4u;
    if (header < NLB_IPV4_BYTES || total < header || nlb_at(frame, NLB_ETHERNET_BYTES, header, end) == NULL) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    nlb_set_ends(table, packet, source, destination);
    packet->fragment_id = identification;
    packet->fragment_protocol = protocol;
    if (fragment & 0x1fff) {
        packet->kind = NLB_KIND_FRAGMENT;
        return;
    }
    if (fragment & 0x2000)
        packet->flags |= NLB_PACKET_FIRST_FRAGMENT;
    nlb_parse_transport(table, frame, NLB_ETHERNET_BYTES + header, NLB_ETHERNET_BYTES + total, end, protocol, source,
                        destination, packet);
}

NLB_CODE void
nlb_parse_ipv6(const struct nlb_table *table, const uint8_t *frame, const uint8_t *end, struct nlb_packet *packet)
{
    const uint8_t *ip = nlb_at(frame, NLB_ETHERNET_BYTES, NLB_IPV6_BYTES, end);
    packet->flags |= NLB_PACKET_IPV6;
    if (ip == NULL || ip[0] >> 4 != 6) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    struct nlb_address source = {NLB_LOAD64(ip + 8), NLB_LOAD64(ip + 16)};
    struct nlb_address destination = {NLB_LOAD64(ip + 24), NLB_LOAD64(ip + 32)};
    uint8_t next = ip[6];
    uint32_t at = NLB_ETHERNET_BYTES + NLB_IPV6_BYTES, limit = at + NLB_BE16(NLB_LOAD16(ip + 4));
    if (nlb_is_ipv4(destination)) {
        /* No packet has an IPv4 address there; it would be taken for the IPv4 address in the table. */
        nlb_settle(packet, NLB_PASS, NLB_REASON_OTHER_ADDRESS);
        return;
    }
    if (!nlb_is_shared(table, destination, ip[24] == 0xff, packet))
        return;
    if (table->state != NLB_RUNNING) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_STOPPED);
        return;
    }
    nlb_set_ends(table, packet, source, destination);
    if (limit == at && next == 0)
        limit = 0xffff; /* A jumbogram says its length in an option. */
    int walking = 1;
    NLB_UNROLL
    for (int number = 0; number <= NLB_HEADERS_MAX; number++) {
        if (!walking || (next != 0 && next != 43 && next != 44 && next != 60))
            break;
        if (number == NLB_HEADERS_MAX) {
            nlb_settle(packet, NLB_DROP, NLB_REASON_TOO_MANY_HEADERS);
            return;
        }
        const uint8_t *header = nlb_at(frame, at, 8, end);
        if (header == NULL || at + 8 > limit) {
            nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
            return;
        }
        if (next == 44) {
            uint16_t fragment = NLB_BE16(NLB_LOAD16(header + 2));
            packet->fragment_id = NLB_LOAD32(header + 4);
            packet->fragment_protocol = header[0];
            if (fragment & 0xfff8) {
                packet->kind = NLB_KIND_FRAGMENT;
                return;
            }
            if (fragment & 1)
                packet->flags |= NLB_PACKET_FIRST_FRAGMENT;
            at += 8;
        } else
            at += header[1] * 8u + 8;
        next = header[0];
    }
    nlb_parse_transport(table, frame, at, limit, end, next, source, destination, packet);
}

/* What a frame is, as far as the table and its own bytes tell. */
NLB_CODE void
nlb_parse(const struct nlb_table *table, const uint8_t *frame, const uint8_t *end, struct nlb_packet *packet)
{
    __builtin_memset(packet, 0, sizeof *packet);
    const uint8_t *ethernet = nlb_at(frame, 0, NLB_ETHERNET_BYTES, end);
    if (ethernet == NULL) {
        nlb_settle(packet, NLB_DROP, NLB_REASON_MALFORMED);
        return;
    }
    if (NLB_LOAD32(ethernet) == NLB_LOAD32(table->cluster_mac) &&
        NLB_LOAD16(ethernet + 4) == NLB_LOAD16(table->cluster_mac + 4))
        packet->flags |= NLB_PACKET_TO_CLUSTER;
    uint16_t type = NLB_BE16(NLB_LOAD16(ethernet + 12));
    if (type == 0x0800)
        nlb_parse_ipv4(table, frame, end, packet);
    else if (type == 0x86dd)
        nlb_parse_ipv6(table, frame, end, packet);
    else
        nlb_settle(packet, NLB_PASS, NLB_REASON_NOT_IP);
}

/* --- which host owns it ------------------------------------------------------------------------------------------- */

/* 1 if the range at that place begins at the port or before; the sign of a difference, so there is no branch to guess. */
#define NLB_BEGUN(firsts, at) (((firsts)[at] - port - 1) >> 31)

/* The rule that covers a port in a list. Of 64 ranges first the eighth is found, then the place in it. */
NLB_CODE uint32_t
nlb_find_rule(const struct nlb_table *table, uint32_t list, uint32_t protocol, uint32_t port)
{
    uint32_t which = list * 2 + (protocol == NLB_UDP);
    if (which >= NLB_LISTS * 2)
        return NLB_SLOT_DEFAULT;
    const struct nlb_ranges *ranges = &table->ranges[which];
    const uint32_t *eighths = ranges->eighth;
    uint32_t at = NLB_BEGUN(eighths, 1) + NLB_BEGUN(eighths, 2) + NLB_BEGUN(eighths, 3) + NLB_BEGUN(eighths, 4) +
                  NLB_BEGUN(eighths, 5) + NLB_BEGUN(eighths, 6) + NLB_BEGUN(eighths, 7);
    at = NLB_BOUND(at, 7) * 8;
    const uint32_t *firsts = &ranges->first[at];
    at += NLB_BEGUN(firsts, 1) + NLB_BEGUN(firsts, 2) + NLB_BEGUN(firsts, 3) + NLB_BEGUN(firsts, 4) +
          NLB_BEGUN(firsts, 5) + NLB_BEGUN(firsts, 6) + NLB_BEGUN(firsts, 7);
    at = NLB_BOUND(at, NLB_RANGES - 1);
    return ranges->first[at] <= port && port <= ranges->last[at] ? ranges->slot[at] : NLB_SLOT_DEFAULT;
}

/* SipHash-1-3 under the cluster's seed: its beginning, a word more, and its end. */
NLB_CODE void
nlb_sip_begin(const struct nlb_table *table, struct sip *s)
{
    s->v0 = 0x736f6d6570736575ull ^ table->seed[0];
    s->v1 = 0x646f72616e646f6dull ^ table->seed[1];
    s->v2 = 0x6c7967656e657261ull ^ table->seed[0];
    s->v3 = 0x7465646279746573ull ^ table->seed[1];
}

NLB_CODE void
nlb_sip_word(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_rounds(s, 1);
    s->v0 ^= word;
}

NLB_CODE void
nlb_sip_end(struct sip *s, uint8_t mark)
{
    s->v2 ^= mark;
    sip_rounds(s, 3);
}

/* The hash of the client: of its address, or of the part that the affinity leaves, and of its port. */
NLB_CODE uint64_t
nlb_hash(const struct nlb_table *table, struct nlb_work *work, uint8_t affinity)
{
    const struct nlb_packet *packet = &work->packet;
    /* The control connection of PPTP falls where its tunnel does, which has no port. */
    int with_port = affinity == NLB_AFFINITY_NONE &&
                    (packet->key.protocol == NLB_IP_UDP ||
                     (packet->key.protocol == NLB_IP_TCP && packet->rule_port != NLB_PORT_PPTP));
    uint64_t last = 0, length = 0;
    struct sip s;
    nlb_sip_begin(table, &s);
    if (packet->flags & NLB_PACKET_IPV6) {
        nlb_sip_word(&s, NLB_LE64(packet->key.client.high));
        struct sip network = s;
        nlb_sip_word(&s, NLB_LE64(packet->key.client.low));
        work->client = s; /* The name of the flow begins alike. */
        if (affinity == NLB_AFFINITY_NETWORK) {
            nlb_sip_word(&network, 0);
            s = network;
        }
        length = 16;
        if (with_port)
            last = NLB_BE16(packet->key.client_port);
    } else {
        last = NLB_LE64(packet->key.client.low) >> 32;
        if (affinity == NLB_AFFINITY_NETWORK)
            last &= 0x00ffffff;
        length = 4;
        if (with_port)
            last |= (uint64_t)NLB_BE16(packet->key.client_port) << 32;
    }
    if (with_port)
        length += 2;
    nlb_sip_word(&s, last | length << 56);
    nlb_sip_end(&s, 0xff);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* Rule, bucket and the byte of the bucket. */
NLB_CODE uint8_t
nlb_place(const struct nlb_table *table, struct nlb_work *work)
{
    const struct nlb_packet *packet = &work->packet;
    struct nlb_decision *decision = &work->decision;
    uint32_t slot = NLB_SLOT_DEFAULT;
    if (packet->rule_protocol != 0)
        slot = nlb_find_rule(table, packet->list, packet->rule_protocol, packet->rule_port);
    else if (packet->kind == NLB_KIND_ICMP && packet->list < NLB_LISTS)
        slot = table->icmp_slot[packet->list];
    if (slot >= NLB_SLOTS)
        slot = NLB_SLOT_DEFAULT;
    uint64_t hash = nlb_hash(table, work, table->rules[slot].affinity);
    uint32_t bucket = NLB_BOUND((uint32_t)((hash >> 32) * table->buckets >> 32), NLB_BUCKETS_MAX - 1);
    uint8_t cell = table->bucket[NLB_ADDEND(slot * NLB_BUCKETS_MAX) + bucket];
    decision->slot = (uint8_t)slot;
    decision->bucket = (uint16_t)bucket;
    decision->owner = cell & NLB_OWNER;
    return cell;
}

/* --- the verdict -------------------------------------------------------------------------------------------------- */

NLB_CODE void
nlb_give(struct nlb_decision *decision, uint8_t verdict, uint8_t reason)
{
    decision->verdict = verdict;
    decision->reason = reason;
}

/* Whether this host keeps track of the flow that a packet belongs to. */
NLB_CODE int
nlb_has_flow(const struct nlb_packet *packet)
{
    return packet->kind == NLB_KIND_TCP || packet->kind == NLB_KIND_SESSION ||
           (packet->kind == NLB_KIND_QUOTED && packet->key.protocol != NLB_IP_UDP);
}

/* A packet that is not settled, its place, and what is known of its flow: the decision, and what to note. */
NLB_CODE void
nlb_judge(const struct nlb_table *table, const struct nlb_packet *packet, uint8_t cell, uint8_t known,
          struct nlb_decision *decision)
{
    const struct nlb_rule *rule = &table->rules[decision->slot < NLB_SLOTS ? decision->slot : NLB_SLOT_DEFAULT];
    int opens = packet->flags & NLB_PACKET_OPENS;
    if (rule->flags & NLB_RULE_CUT) {
        nlb_give(decision, NLB_DROP, NLB_REASON_RULE_CUT);
        decision->note = known != NLB_UNKNOWN ? NLB_NOTE_FORGET : NLB_NOTE_NOTHING;
        return;
    }
    if (known != NLB_UNKNOWN && !opens) {
        int session = packet->key.protocol != NLB_IP_TCP;
        nlb_give(decision, NLB_ACCEPT, session ? NLB_REASON_KNOWN_SESSION : NLB_REASON_KNOWN_CONNECTION);
        if (packet->kind == NLB_KIND_QUOTED)
            return;
        decision->note = packet->flags & NLB_PACKET_RST   ? NLB_NOTE_FORGET
                         : packet->flags & NLB_PACKET_FIN ? NLB_NOTE_CLOSE
                         : known == NLB_OPENING           ? NLB_NOTE_OPEN
                                                          : NLB_NOTE_TOUCH;
        return;
    }
    uint8_t mode = rule->mode;
    if (mode == NLB_DISABLED) {
        nlb_give(decision, NLB_DROP, NLB_REASON_RULE_DISABLED);
        return;
    }
    if (decision->owner != table->self) {
        nlb_give(decision, NLB_DROP,
                 decision->owner == 0      ? NLB_REASON_NOBODY
                 : mode == NLB_MULTIPLE    ? NLB_REASON_OTHER_BUCKET
                 : mode == NLB_SINGLE      ? NLB_REASON_NOT_SINGLE_HOST
                                           : NLB_REASON_NOT_DEFAULT_HOST);
        /* The client begins anew, and it does so at the owner. */
        decision->note = known != NLB_UNKNOWN ? NLB_NOTE_FORGET : NLB_NOTE_NOTHING;
        return;
    }
    if ((cell & NLB_DIRTY) && !opens && nlb_has_flow(packet)) {
        nlb_give(decision, NLB_DROP, NLB_REASON_DIRTY);
        return;
    }
    nlb_give(decision, NLB_ACCEPT,
             mode == NLB_MULTIPLE ? NLB_REASON_BUCKET_OWNER
             : mode == NLB_SINGLE ? NLB_REASON_SINGLE_HOST
                                  : NLB_REASON_DEFAULT_HOST);
    if (packet->kind != NLB_KIND_TCP && packet->kind != NLB_KIND_SESSION)
        return;
    if (opens)
        decision->note = known == NLB_UNKNOWN || known == NLB_OPENING ? NLB_NOTE_OPENING
                         : known == NLB_CLOSING                       ? NLB_NOTE_OPEN
                                                                      : NLB_NOTE_NOTHING;
    else if (!(packet->flags & (NLB_PACKET_FIN | NLB_PACKET_RST)))
        decision->note = NLB_NOTE_OPEN;
}

NLB_CODE void
nlb_judge_fragment(uint8_t known, struct nlb_decision *decision)
{
    if (known == NLB_FRAGMENT_DROPPED)
        nlb_give(decision, NLB_DROP, NLB_REASON_OTHER_FRAGMENT);
    else
        /* Of a datagram whose beginning has not come yet: the stack throws it away if that goes elsewhere. */
        nlb_give(decision, NLB_ACCEPT,
                 known == NLB_FRAGMENT_ACCEPTED ? NLB_REASON_FRAGMENT_FOLLOWS : NLB_REASON_FRAGMENT_UNPLACED);
}

/* --- flows -------------------------------------------------------------------------------------------------------- */

/* For how long a flow in that state is remembered after its last packet. */
NLB_CODE uint64_t
nlb_remembered_ticks(const struct nlb_table *table, const struct nlb_key *key, uint64_t state)
{
    if (key->fragments)
        return table->fragment_ticks;
    if (state == NLB_OPENING)
        return table->opening_ticks;
    if (state == NLB_CLOSING)
        return table->closing_ticks;
    if (key->protocol == NLB_IP_GRE)
        return table->gre_ticks;
    return key->protocol == NLB_IP_TCP ? table->idle_ticks : table->ipsec_ticks;
}

NLB_CODE uint8_t
nlb_flow_state(const struct nlb_table *table, const struct nlb_key *key, const struct nlb_flow *flow, uint64_t now_ticks)
{
    uint64_t seen_ticks = flow->seen_ticks, state = flow->state;
    return now_ticks > seen_ticks && now_ticks - seen_ticks > nlb_remembered_ticks(table, key, state) ? NLB_UNKNOWN : (uint8_t)state;
}

NLB_CODE void
nlb_forget(struct nlb_flows *flows, const struct nlb_key *key, const struct nlb_name *name)
{
    nlb_flow_forget(flows, NLB_FLOWS_OPENING, key, name);
    nlb_flow_forget(flows, NLB_FLOWS_OPEN, key, name);
}

/* Ports, protocol and whatever else is not an address. */
NLB_CODE uint64_t
nlb_ports_word(const struct nlb_key *key)
{
    return (uint64_t)key->client_port << 48 | (uint64_t)key->server_port << 32 | (uint64_t)key->protocol << 24 |
           (uint64_t)key->fragments << 16;
}

/* Strongly universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): whoever does not know the
   keys knows nothing of where two different names fall, whatever the names. The upper half is good. */
NLB_CODE uint64_t
nlb_universal(const uint64_t keys[5], uint64_t high, uint64_t low)
{
    return keys[0] + keys[1] * (high >> 32) + keys[2] * (high & 0xffffffff) + keys[3] * (low >> 32) +
           keys[4] * (low & 0xffffffff);
}

NLB_CODE void
nlb_name_ipv4(const struct nlb_table *table, const struct nlb_key *key, struct nlb_name *name)
{
    uint64_t high = (uint64_t)NLB_IPV4_WORD(key->client.low) << 32 | NLB_IPV4_WORD(key->server.low);
    uint64_t low = nlb_ports_word(key);
    name->high = high;
    name->low = low;
    name->spot = (nlb_universal(table->set_keys, high, low) & ~0xffffffffull) |
                 nlb_universal(table->tag_keys, high, low) >> 32;
}

/* `client` is the state of the hash after the client's address. */
NLB_CODE void
nlb_name_ipv6(const struct sip *client, const struct nlb_key *key, struct nlb_name *name)
{
    struct sip s = *client;
    nlb_sip_word(&s, NLB_LE64(key->server.high));
    nlb_sip_word(&s, NLB_LE64(key->server.low));
    nlb_sip_word(&s, nlb_ports_word(key));
    nlb_sip_end(&s, 0xee);
    uint64_t high = s.v0 ^ s.v1, low = (s.v2 ^ s.v3) | 1;
    name->high = high;
    name->low = low;
    name->spot = high ^ low; /* Both are hashes already. */
}

/* The name of a flow in the kernel's tables, from nothing but its key. */
NLB_CODE void
nlb_name_flow(const struct nlb_table *table, const struct nlb_key *key, struct nlb_name *name)
{
    if (nlb_is_ipv4(key->client) && nlb_is_ipv4(key->server)) {
        nlb_name_ipv4(table, key, name);
        return;
    }
    struct sip client;
    nlb_sip_begin(table, &client);
    nlb_sip_word(&client, NLB_LE64(key->client.high));
    nlb_sip_word(&client, NLB_LE64(key->client.low));
    nlb_name_ipv6(&client, key, name);
}

/* The flow of a PPTP client's tunnel, which its control connection opens. */
NLB_CODE void
nlb_tunnel_key(const struct nlb_packet *packet, struct nlb_key *key)
{
    *key = packet->key;
    key->client_port = key->server_port = 0;
    key->protocol = NLB_IP_GRE;
}

NLB_CODE void
nlb_fragment_key(const struct nlb_packet *packet, struct nlb_key *key)
{
    __builtin_memset(key, 0, sizeof *key);
    key->client = packet->key.client;
    key->server = packet->key.server;
    key->client_port = (uint16_t)packet->fragment_id;
    key->server_port = (uint16_t)(packet->fragment_id >> 16);
    key->protocol = packet->fragment_protocol;
    key->fragments = 1;
}

/* Notes of a flow what the decision says; `found` is what is known of it, in the table of openings if it is opening. */
NLB_CODE void
nlb_take_note(const struct nlb_table *table, struct nlb_flows *flows, struct nlb_work *work,
              const struct nlb_flow *found, int opening)
{
    uint8_t note = work->decision.note;
    if (note == NLB_NOTE_NOTHING)
        return;
    if (note == NLB_NOTE_FORGET) {
        nlb_forget(flows, &work->packet.key, &work->name);
        return;
    }
    struct nlb_flow flow = {nlb_now(flows), NLB_OPEN};
    if (note == NLB_NOTE_TOUCH && found != NULL) { /* What is known is found; the verifier does not know. */
        if (flow.seen_ticks - found->seen_ticks <= table->touch_ticks)
            return;
        flow.state = found->state;
    }
    if (note == NLB_NOTE_OPENING) {
        if (found != NULL && !opening) /* Too old to count, but it would hide the new one. */
            nlb_flow_forget(flows, NLB_FLOWS_OPEN, &work->packet.key, &work->name);
        flow.state = NLB_OPENING;
        nlb_flow_put(flows, NLB_FLOWS_OPENING, &work->packet.key, &work->name, &flow);
        return;
    }
    if (note == NLB_NOTE_CLOSE)
        flow.state = NLB_CLOSING;
    nlb_flow_put(flows, NLB_FLOWS_OPEN, &work->packet.key, &work->name, &flow);
    if (opening)
        nlb_flow_forget(flows, NLB_FLOWS_OPENING, &work->packet.key, &work->name);
}

/* Whoever opens a control connection of PPTP opens a tunnel; later fragments go where the first one went. */
NLB_CODE void
nlb_take_second_note(const struct nlb_table *table, struct nlb_flows *flows, struct nlb_work *work)
{
    const struct nlb_packet *packet = &work->packet;
    int fragment = (packet->flags & NLB_PACKET_FIRST_FRAGMENT) && packet->kind != NLB_KIND_QUOTED;
    int tunnel = packet->kind == NLB_KIND_TCP && (packet->flags & NLB_PACKET_OPENS) &&
                 packet->rule_port == NLB_PORT_PPTP;
    if (!fragment && !tunnel)
        return;
    int accepted = work->decision.verdict == NLB_ACCEPT;
    struct nlb_flow flow = {nlb_now(flows), NLB_OPEN};
    if (fragment) {
        flow.state = accepted ? NLB_FRAGMENT_ACCEPTED : NLB_FRAGMENT_DROPPED;
        nlb_fragment_key(packet, &work->key);
    } else
        nlb_tunnel_key(packet, &work->key);
    nlb_name_flow(table, &work->key, &work->name);
    NLB_MEET();
    if (fragment)
        nlb_flow_put(flows, NLB_FLOWS_FRAGMENTS, &work->key, &work->name, &flow);
    else if (accepted)
        nlb_flow_put(flows, NLB_FLOWS_OPEN, &work->key, &work->name, &flow);
    else
        nlb_forget(flows, &work->key, &work->name);
}

NLB_CODE void
nlb_decide_fragment(const struct nlb_table *table, struct nlb_flows *flows, struct nlb_work *work)
{
    uint8_t known = NLB_UNKNOWN;
    nlb_fragment_key(&work->packet, &work->key);
    nlb_name_flow(table, &work->key, &work->name);
    NLB_MEET();
    const struct nlb_flow *found = nlb_flow_find(flows, NLB_FLOWS_FRAGMENTS, &work->key, &work->name);
    if (found != NULL)
        known = nlb_flow_state(table, &work->key, found, nlb_now(flows));
    work->decision.known = known;
    nlb_judge_fragment(known, &work->decision);
}

NLB_CODE void
nlb_decide_whole(const struct nlb_table *table, struct nlb_flows *flows, struct nlb_work *work)
{
    uint8_t cell = nlb_place(table, work);
    NLB_MEET();
    const struct nlb_flow *found = NULL;
    int opening = 0;
    if (nlb_has_flow(&work->packet) && ((cell & NLB_KEPT) || work->decision.owner == table->self)) {
        if (work->packet.flags & NLB_PACKET_IPV6)
            nlb_name_ipv6(&work->client, &work->packet.key, &work->name);
        else
            nlb_name_ipv4(table, &work->packet.key, &work->name);
        NLB_MEET();
        found = nlb_flow_find(flows, NLB_FLOWS_OPEN, &work->packet.key, &work->name);
        if (found == NULL) {
            found = nlb_flow_find(flows, NLB_FLOWS_OPENING, &work->packet.key, &work->name);
            opening = found != NULL;
        }
        if (found != NULL)
            work->decision.known = nlb_flow_state(table, &work->packet.key, found, nlb_now(flows));
    }
    NLB_MEET();
    nlb_judge(table, &work->packet, cell, work->decision.known, &work->decision);
    NLB_MEET();
    nlb_take_note(table, flows, work, found, opening);
    NLB_MEET();
    nlb_take_second_note(table, flows, work);
}

/*
 * Decides a frame; the decision lies in the work. `flows` may say less than there was: a flow that was pushed out of its
 * table is decided by its bucket, which is wrong only for a connection that has outlived a move.
 */
NLB_CODE void
nlb_decide(const struct nlb_table *table, struct nlb_flows *flows, const uint8_t *frame, const uint8_t *end,
           struct nlb_work *work)
{
    __builtin_memset(&work->decision, 0, sizeof work->decision);
    work->decision.slot = NLB_SLOT_NONE;
    nlb_parse(table, frame, end, &work->packet);
    NLB_MEET();
    if (work->packet.kind == NLB_KIND_SETTLED)
        nlb_give(&work->decision, work->packet.verdict, work->packet.reason);
    else if (work->packet.kind == NLB_KIND_FRAGMENT)
        nlb_decide_fragment(table, flows, work);
    else
        nlb_decide_whole(table, flows, work);
    NLB_MEET();
    work->decision.rewrite = work->decision.verdict == NLB_ACCEPT && (table->flags & NLB_FLAG_REWRITE) &&
                             (work->packet.flags & NLB_PACKET_TO_CLUSTER);
}
