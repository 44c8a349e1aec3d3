/*
 * The flow tables in the kernel.
 *
 * A table is an array of sets, and a flow has its place in one of them: which one is a keyed hash of its name. If all
 * places of the set are taken, the oldest gives way. Noting a flow is a few stores, where the kernel's own hash table
 * would take a lock and an entry from a list.
 *
 * There is no lock here. Processors (and whoever reads from outside) may come to one place at the same time, so what is
 * read may be a mixture of two flows, word by word. Nobody ever believes a mixture:
 *
 *   - Date, state and tag are one word, which is read and written whole. The tag is a second hash of the name.
 *   - A flow is known only if both words of its name are there and the tag is its own. Two halves of different names are
 *     the name of a third flow; its tag is neither's, but for a chance of 2^-21 that depends on the seed alone.
 *   - So a flow that loses its place to another at the same moment is lost, as if it had been the oldest; and a flow that
 *     is forgotten is gone from every place of its set. "Flows may say less than there was" (nlb_decide) covers the first,
 *     and nothing else can happen.
 */

#ifndef CLUSSVC_NLB_SETS_H
#define CLUSSVC_NLB_SETS_H

#include "nlb_filter.h"

#define NLB_STATE_BITS 3
#define NLB_TICKS_BITS 40 /* A tick is a millisecond at least, and no machine is up for 34 years. */
#define NLB_TAG_BITS 21
#define NLB_NOTED_ONCE(set, way) (*(const volatile uint64_t *)&(set)->noted[way])

/* Of the sets there are a power of two. */
NLB_CODE uint32_t
nlb_set_number(const struct nlb_name *name, uint32_t sets)
{
    return (uint32_t)(name->spot >> 32) & (sets - 1);
}

NLB_CODE uint64_t
nlb_noted(const struct nlb_name *name, const struct nlb_flow *flow)
{
    uint64_t ticks = flow->seen_ticks & ((1ull << NLB_TICKS_BITS) - 1);
    return name->spot << (64 - NLB_TAG_BITS) | ticks << NLB_STATE_BITS | flow->state;
}

NLB_CODE struct nlb_flow
nlb_noted_flow(uint64_t noted)
{
    struct nlb_flow flow = {noted << NLB_TAG_BITS >> (NLB_TAG_BITS + NLB_STATE_BITS),
                            noted & ((1u << NLB_STATE_BITS) - 1)};
    return flow;
}

/* Whether a name is a hash, as those of IPv6 are, and does not tell whose it is. */
NLB_CODE int
nlb_is_hashed(const struct nlb_name *name)
{
    return (int)(name->low & 1);
}

NLB_CODE int
nlb_set_has(const struct nlb_set *set, uint32_t way, uint64_t noted, const struct nlb_name *name)
{
    return (noted ^ name->spot << (64 - NLB_TAG_BITS)) >> (64 - NLB_TAG_BITS) == 0 &&
           set->names[way].high == name->high && set->names[way].low == name->low;
}

/* What is noted of a flow; 0 if nothing. */
NLB_CODE uint64_t
nlb_set_find(const struct nlb_set *set, const struct nlb_name *name)
{
    NLB_UNROLL
    for (uint32_t way = 0; way < NLB_WAYS; way++) {
        uint64_t noted = NLB_NOTED_ONCE(set, way);
        if (nlb_set_has(set, way, noted, name))
            return noted;
    }
    return 0;
}

/* Notes a flow in its place, or in that of the oldest; an empty one is older than all. */
NLB_CODE void
nlb_set_put(struct nlb_set *set, const struct nlb_name *name, const struct nlb_key *key,
            const struct nlb_flow *flow)
{
    uint64_t noted = nlb_noted(name, flow);
    uint64_t oldest = UINT64_MAX;
    NLB_UNROLL
    for (uint32_t way = 0; way < NLB_WAYS; way++) {
        uint64_t there = NLB_NOTED_ONCE(set, way);
        if (nlb_set_has(set, way, there, name)) {
            set->noted[way] = noted;
            return;
        }
        uint64_t dated = there << NLB_TAG_BITS | way; /* Date and place in one number; the tag falls out at the top. */
        if (dated < oldest)
            oldest = dated;
    }
    uint32_t way = NLB_BOUND((uint32_t)oldest, NLB_WAYS - 1);
    set->noted[way] = noted;
    set->names[way].high = name->high;
    set->names[way].low = name->low;
    if (nlb_is_hashed(name))
        set->keys[way] = *key;
}

/* Every place is looked at: two processors may have noted the same flow at the same moment. */
NLB_CODE void
nlb_set_forget(struct nlb_set *set, const struct nlb_name *name)
{
    NLB_UNROLL
    for (uint32_t way = 0; way < NLB_WAYS; way++)
        if (nlb_set_has(set, way, NLB_NOTED_ONCE(set, way), name))
            set->noted[way] = 0;
}

#endif
