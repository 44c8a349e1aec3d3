/* Makes the table of the filter from port rules, or says what is wrong with them. Pure as the filter itself. */

#ifndef CLUSSVC_NLB_TABLE_H
#define CLUSSVC_NLB_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nlb_structs.h"

struct nlb_setup_rule {
    bool for_all; /* Of all addresses; otherwise of `address`. */
    struct nlb_address address;
    uint32_t first_port, last_port;
    uint8_t protocol, mode, affinity, flags;
    uint8_t counter; /* 0..NLB_RULE_COUNTS-1 */
    const uint8_t *cells; /* For each bucket: the owner, NLB_DIRTY, NLB_KEPT. */
};

struct nlb_setup {
    uint64_t generation;
    uint64_t seed[2];
    uint64_t opening_ticks, idle_ticks, closing_ticks, gre_ticks, ipsec_ticks, fragment_ticks, touch_ticks;
    uint32_t buckets, self, state, flags;
    uint32_t open_sets; /* A power of two in 1..NLB_OPEN_SETS_MAX. */
    uint8_t cluster_mac[6], own_mac[6];
    const struct nlb_address *virtual_addresses, *dedicated_addresses;
    size_t virtual_count, dedicated_count;
    const struct nlb_setup_rule *rules;
    size_t rule_count;
    const uint8_t *default_cells;
    uint8_t default_flags, default_counter;
};

/* NULL, or a sentence without a full stop that says why there is no such table; then `table` means nothing. */
const char *nlb_table_build(struct nlb_table *table, const struct nlb_setup *setup);

#endif
