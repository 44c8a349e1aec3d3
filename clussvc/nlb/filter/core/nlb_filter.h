/*
 * Which host of a load-balanced cluster takes a frame: the one decision that every host makes for itself.
 *
 * Every host gets every frame for the cluster's virtual addresses. All of them look at it with the same function and
 * the same table, and just one finds that the frame is its own:
 *
 *   1. what is not for a virtual address passes, as if there were no filter;
 *   2. a host that is stopped takes nothing;
 *   3. the rule is the one for the address, protocol and port, one of the address itself before one of all addresses;
 *      without one, the default rule, whose owner is the default host;
 *   4. a packet of a connection that this host knows is its own, whoever owns the bucket now;
 *   5. a disabled rule takes nothing;
 *   6. a keyed hash of the client (of its address and port, its address, or its network) names a bucket of the rule, and
 *      the host that owns the bucket takes the packet;
 *   7. but while another host still has connections of a bucket, its new owner leaves to that host all that
 *      does not open a connection and that it does not know.
 *
 * The same source is compiled into the extension and, by clang with -DNLB_BPF, into a program for the kernel's XDP hook.
 * Nothing here allocates, waits, or reads a clock. Whoever includes it brings the flow tables and the time:
 *
 *   nlb_flow_find, nlb_flow_put, nlb_flow_forget, nlb_now
 *
 * A SYN always belongs to the owner of its bucket. A host that knows the connection but does not own the bucket
 * forgets it then, so that two hosts never answer one client (docs/decisions/0021-packet-filter.md).
 */

#ifndef CLUSSVC_NLB_FILTER_H
#define CLUSSVC_NLB_FILTER_H

#include <stddef.h>
#include <stdint.h>

#include "nlb_structs.h"

#ifdef NLB_BPF
#define NLB_CODE static inline __attribute__((always_inline))
#define NLB_LOAD16(at) (*(const uint16_t *)(at))
#define NLB_LOAD32(at) (*(const uint32_t *)(at))
#define NLB_LOAD64(at) (*(const uint64_t *)(at))
#define NLB_UNROLL _Pragma("unroll")
/*
 * What was written to memory is read again afterwards. The work lies in a map, and of what it reads there the verifier
 * knows nothing: so all paths that lead here are one to it, and the program stays within what it is willing to look at.
 */
#define NLB_MEET() __asm__ volatile("" ::: "memory")
/* Keeps the compiler from dropping a bound that the kernel's verifier wants to see. */
#define NLB_BOUND(value, mask) ({ uint32_t bound_ = (value); __asm__ volatile("" : "+r"(bound_)); bound_ & (mask); })
/* Keeps it from making an OR of a sum whose parts share no bits; older verifiers do not know how large that is. */
#define NLB_ADDEND(value) ({ uint32_t addend_ = (value); __asm__ volatile("" : "+r"(addend_)); addend_; })
#else
#include <string.h>
#define NLB_CODE static inline
#define NLB_UNROLL
#define NLB_MEET()
static inline uint16_t
nlb_load16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}
static inline uint32_t
nlb_load32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}
static inline uint64_t
nlb_load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}
#define NLB_LOAD16(at) nlb_load16(at)
#define NLB_LOAD32(at) nlb_load32(at)
#define NLB_LOAD64(at) nlb_load64(at)
#define NLB_BOUND(value, mask) ((value) & (mask))
#define NLB_ADDEND(value) (value)
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NLB_BE16(value) __builtin_bswap16(value)
#define NLB_LE64(value) (value)
#define NLB_IPV4_LOW(word) ((uint64_t)(word) << 32 | 0xffff0000u) /* ::ffff:w.x.y.z as its bytes lie in memory. */
#define NLB_IPV4_WORD(low) ((uint32_t)((low) >> 32))
#else
#define NLB_BE16(value) (value)
#define NLB_LE64(value) __builtin_bswap64(value)
#define NLB_IPV4_LOW(word) (0x0000ffff00000000ull | (word))
#define NLB_IPV4_WORD(low) ((uint32_t)(low))
#endif

struct nlb_flows; /* The three flow tables, however they are kept. */

/* What a flow table says of a key, which also has a name (struct nlb_name); NULL if nothing. Good until the next call. */
NLB_CODE const struct nlb_flow *nlb_flow_find(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key,
                                              const struct nlb_name *name);

/* Notes a flow, in the place of what was noted of it before; a full table gives up its oldest. */
NLB_CODE void nlb_flow_put(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key,
                           const struct nlb_name *name, const struct nlb_flow *flow);

NLB_CODE void nlb_flow_forget(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key,
                              const struct nlb_name *name);

/* The time in ticks, whose length only the maker of the table knows: of the kernel's timer there. */
NLB_CODE uint64_t nlb_now(struct nlb_flows *flows);

#endif
