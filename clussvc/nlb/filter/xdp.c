/*
 * The filter as a program for the kernel's XDP hook, around the same core as the extension.
 *
 * script/build-filter compiles this with clang and writes program.h, which is what the extension contains and loads; no
 * machine that runs the filter needs clang or any library for BPF. The maps below exist in name only: the loader
 * (attach.c) makes them, and puts them where the program refers to them.
 */

#define NLB_BPF

#include <stddef.h>
#include <stdint.h>

#include "nlb_filter.h"
#include "nlb_sets.h"

#define SECTION(name) __attribute__((section(name), used))

/* What of <linux/bpf.h> is needed; all of it is the kernel's stable interface. */
struct xdp_md {
    uint32_t data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};
#define XDP_DROP 1
#define XDP_PASS 2

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static uint64_t (*const bpf_jiffies64)(void) = (void *)118; /* A mere load; every other clock is a call. */

struct map {
    uint32_t number;
};
struct map nlb_map_tables SECTION("maps"), nlb_map_cpu SECTION("maps"), nlb_map_until SECTION("maps"),
    nlb_map_opening SECTION("maps"), nlb_map_open SECTION("maps"), nlb_map_fragments SECTION("maps");

/* Flow tables are maps of the program; which one is meant is known when this is compiled. */
#define NLB_MAP(which) \
    ((which) == NLB_FLOWS_OPEN      ? &nlb_map_open    \
     : (which) == NLB_FLOWS_OPENING ? &nlb_map_opening \
                                    : &nlb_map_fragments)

struct nlb_flows {
    const struct nlb_table *table;
    struct nlb_cpu *cpu;
};

NLB_CODE struct nlb_set *
nlb_flow_set(const struct nlb_flows *flows, uint32_t which, const struct nlb_name *name)
{
    uint32_t sets = which == NLB_FLOWS_OPEN      ? flows->table->open_sets
                    : which == NLB_FLOWS_OPENING ? NLB_OPENING_SETS
                                                 : NLB_FRAGMENT_SETS;
    uint32_t number = nlb_set_number(name, sets);
    return bpf_map_lookup_elem(NLB_MAP(which), &number);
}

NLB_CODE const struct nlb_flow *
nlb_flow_find(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    (void)key;
    const struct nlb_set *set = nlb_flow_set(flows, which, name);
    uint64_t noted = set == NULL ? 0 : nlb_set_find(set, name);
    if (noted == 0)
        return NULL;
    flows->cpu->found = nlb_noted_flow(noted);
    return &flows->cpu->found;
}

NLB_CODE void
nlb_flow_put(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name,
             const struct nlb_flow *flow)
{
    struct nlb_set *set = nlb_flow_set(flows, which, name);
    if (set != NULL)
        nlb_set_put(set, name, key, flow);
}

NLB_CODE void
nlb_flow_forget(struct nlb_flows *flows, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    (void)key;
    struct nlb_set *set = nlb_flow_set(flows, which, name);
    if (set != NULL)
        nlb_set_forget(set, name);
}

NLB_CODE uint64_t
nlb_now(struct nlb_flows *flows)
{
    (void)flows;
    return bpf_jiffies64();
}

#include "nlb_filter.c"

SECTION("xdp") int
clussvc_nlb(struct xdp_md *context)
{
    uint8_t *frame = (uint8_t *)(uintptr_t)context->data, *end = (uint8_t *)(uintptr_t)context->data_end;
    uint32_t zero = 0;
    struct nlb_cpu *cpu = bpf_map_lookup_elem(&nlb_map_cpu, &zero);
    void *current = bpf_map_lookup_elem(&nlb_map_tables, &zero);
    if (cpu == NULL || current == NULL)
        return XDP_DROP; /* There always are; the verifier cannot know. */
    const struct nlb_table *table = bpf_map_lookup_elem(current, &zero);
    if (table == NULL)
        return XDP_DROP;
    struct nlb_flows flows = {table, cpu};
    nlb_decide(table, &flows, frame, end, &cpu->work);
    NLB_MEET();
    /* The deadman: when the agent stands still, others have taken over, or will in a moment. */
    if (cpu->work.decision.verdict == NLB_ACCEPT && cpu->work.decision.reason != NLB_REASON_NEIGHBOUR) {
        const uint64_t *until = bpf_map_lookup_elem(&nlb_map_until, &zero);
        if (until == NULL || bpf_jiffies64() > *until) {
            cpu->work.decision.verdict = NLB_DROP;
            cpu->work.decision.reason = NLB_REASON_STOPPED;
        }
    }
    if (cpu->work.decision.rewrite && frame + 14 <= end) {
        *(uint32_t *)frame = NLB_LOAD32(table->own_mac);
        *(uint16_t *)(frame + 4) = NLB_LOAD16(table->own_mac + 4);
    }
    cpu->counts[NLB_BOUND(cpu->work.decision.reason, NLB_COUNTS - 1)]++;
    uint32_t slot = cpu->work.decision.slot;
    if (slot < NLB_SLOTS) {
        struct nlb_rule_count *count =
            &cpu->rule_counts[NLB_BOUND(table->rules[slot].counter, NLB_RULE_COUNTS - 1)];
        if (cpu->work.decision.verdict == NLB_DROP)
            count->dropped++;
        else
            count->accepted++;
    }
    return cpu->work.decision.verdict == NLB_DROP ? XDP_DROP : XDP_PASS;
}
