/* Flow tables in ordinary memory, for the extension and the fuzzer; in the kernel they are maps. */

#ifndef CLUSSVC_NLB_FLOWS_H
#define CLUSSVC_NLB_FLOWS_H

#include <stdbool.h>
#include <stdlib.h>

#include "nlb_filter.h"

/* A key is looked for in so many places after its own; if all are taken, the oldest gives way. */
#define NLB_PROBES 16

struct nlb_flow_entry {
    struct nlb_key key;
    struct nlb_flow flow; /* State 0: an empty place. */
};

struct nlb_flows {
    uint64_t now_ticks;
    size_t capacity; /* Of each table; a power of two, at least NLB_PROBES. */
    struct nlb_flow_entry *entries; /* All three tables, one behind the other. */
};

static inline bool
nlb_flows_init(struct nlb_flows *flows, size_t capacity)
{
    flows->now_ticks = 0;
    flows->capacity = capacity;
    flows->entries = calloc(capacity * NLB_FLOW_TABLES, sizeof *flows->entries);
    return flows->entries != NULL;
}

static inline struct nlb_flow_entry *
nlb_flow_entry(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, bool make)
{
    const uint8_t *bytes = (const uint8_t *)key;
    uint64_t mixed = 0;
    for (size_t at = 0; at < sizeof *key; at += 8)
        mixed = (mixed ^ nlb_load64(bytes + at)) * 0x9e3779b97f4a7c15ull, mixed ^= mixed >> 29;
    struct nlb_flow_entry *table = flows->entries + which * flows->capacity, *place = NULL;
    for (size_t probe = 0; probe < NLB_PROBES; probe++) {
        struct nlb_flow_entry *entry = &table[(mixed + probe) & (flows->capacity - 1)];
        if (entry->flow.state != 0 && memcmp(&entry->key, key, sizeof *key) == 0)
            return entry;
        if (place == NULL || (place->flow.state != 0 &&
                              (entry->flow.state == 0 || entry->flow.seen_ticks < place->flow.seen_ticks)))
            place = entry;
    }
    return make ? place : NULL;
}

NLB_CODE const struct nlb_flow *
nlb_flow_find(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    (void)name;
    struct nlb_flow_entry *entry = flows == NULL ? NULL : nlb_flow_entry(flows, which, key, false);
    return entry == NULL ? NULL : &entry->flow;
}

NLB_CODE void
nlb_flow_put(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name,
             const struct nlb_flow *flow)
{
    (void)name;
    if (flows == NULL)
        return;
    struct nlb_flow_entry *entry = nlb_flow_entry(flows, which, key, true);
    entry->key = *key;
    entry->flow = *flow;
}

NLB_CODE void
nlb_flow_forget(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    (void)name;
    struct nlb_flow_entry *entry = flows == NULL ? NULL : nlb_flow_entry(flows, which, key, false);
    if (entry != NULL)
        entry->flow.state = 0;
}

NLB_CODE uint64_t
nlb_now(struct nlb_flows *flows)
{
    return flows == NULL ? 0 : flows->now_ticks;
}

#endif
