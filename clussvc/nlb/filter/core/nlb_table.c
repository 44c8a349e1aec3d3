/* See nlb_table.h. */

#include "nlb_table.h"

#include <string.h>

static bool
same(struct nlb_address one, struct nlb_address other)
{
    return one.high == other.high && one.low == other.low;
}

/* The same as nlb_fold in nlb_filter.c, which a test compares. */
static uint32_t
place_of(uint64_t fold, struct nlb_address address)
{
    return (uint32_t)((((address.high * 0x9e3779b97f4a7c15ull) ^ address.low) * fold) >> 52);
}

/* splitmix64 (Steele, Lea and Flood 2014): the next number of a sequence without pattern. */
static uint64_t
next_number(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool
is_unspecified(struct nlb_address address)
{
    return address.high == 0 && address.low == 0;
}

/* Numbers that only who has the seed can know, set apart from its other use by what is hashed. */
static void
make_keys(const uint64_t seed[2], const char *what, uint64_t keys[5])
{
    uint8_t key[16], made[16], message[4];
    store_le64(key, seed[0]);
    store_le64(key + 8, seed[1]);
    memcpy(message, what, 3);
    for (uint8_t number = 0; number < 5; number++) {
        message[3] = number;
        siphash128(key, message, sizeof message, made);
        keys[number] = load_le64(made);
    }
}

/* Finds a multiplier with which no two addresses fall on one place. */
static bool
lay_out(struct nlb_table *table, size_t count)
{
    uint64_t state = 1;
    for (int trial = 0; trial < 100000; trial++) {
        table->fold = next_number(&state) | 1;
        memset(table->places, 0, sizeof table->places);
        size_t number = 1;
        for (; number <= count; number++) {
            uint8_t *place = &table->places[place_of(table->fold, table->targets[number].address)];
            if (*place != 0)
                break;
            *place = (uint8_t)number;
        }
        if (number > count)
            return true;
    }
    return false;
}

static bool
covers(const struct nlb_setup_rule *rule, uint8_t protocol, uint32_t port)
{
    return (rule->protocol & protocol) && rule->first_port <= port && port <= rule->last_port;
}

/* The rule of a port: one of the address before one of all; the default rule if there is none. */
static uint8_t
rule_of(const struct nlb_setup *setup, const struct nlb_address *address, uint8_t protocol, uint32_t port)
{
    for (size_t slot = 0; address != NULL && slot < setup->rule_count; slot++) {
        const struct nlb_setup_rule *rule = &setup->rules[slot];
        if (!rule->for_all && same(rule->address, *address) && covers(rule, protocol, port))
            return (uint8_t)slot;
    }
    for (size_t slot = 0; slot < setup->rule_count; slot++)
        if (setup->rules[slot].for_all && covers(&setup->rules[slot], protocol, port))
            return (uint8_t)slot;
    return NLB_SLOT_DEFAULT;
}

/* The rules of an address (NULL: those of all) as ranges. They begin and end where some rule does. */
static void
fill_ranges(struct nlb_ranges *ranges, const struct nlb_setup *setup, const struct nlb_address *address,
            uint8_t protocol)
{
    uint32_t edges[2 * NLB_RULES_MAX];
    size_t count = 0, used = 0;
    for (size_t slot = 0; slot < setup->rule_count; slot++) {
        const struct nlb_setup_rule *rule = &setup->rules[slot];
        if (!(rule->protocol & protocol) || !(rule->for_all || (address != NULL && same(rule->address, *address))))
            continue;
        edges[count++] = rule->first_port;
        edges[count++] = rule->last_port + 1;
    }
    for (size_t at = 1; at < count; at++)
        for (size_t back = at; back > 0 && edges[back - 1] > edges[back]; back--) {
            uint32_t swapped = edges[back];
            edges[back] = edges[back - 1];
            edges[back - 1] = swapped;
        }
    for (size_t at = 0; at < NLB_RANGES; at++) {
        ranges->first[at] = 65536;
        ranges->last[at] = 0;
        ranges->slot[at] = NLB_SLOT_DEFAULT;
    }
    for (size_t at = 0; at + 1 < count; at++) {
        if (edges[at] == edges[at + 1])
            continue;
        uint8_t slot = rule_of(setup, address, protocol, edges[at]);
        if (slot == NLB_SLOT_DEFAULT)
            continue;
        ranges->first[used] = edges[at];
        ranges->last[used] = (uint16_t)(edges[at + 1] - 1);
        ranges->slot[used++] = slot;
    }
    for (size_t at = 0; at < 8; at++)
        ranges->eighth[at] = ranges->first[at * 8];
}

/* ICMP has no port: the first rule of the address that several hosts share is taken for it. */
static uint8_t
icmp_rule(const struct nlb_setup *setup, const struct nlb_address *address)
{
    for (size_t slot = 0; slot < setup->rule_count; slot++) {
        const struct nlb_setup_rule *rule = &setup->rules[slot];
        if (rule->mode == NLB_MULTIPLE && (rule->for_all || (address != NULL && same(rule->address, *address))))
            return (uint8_t)slot;
    }
    return NLB_SLOT_DEFAULT;
}

static const char *
fill_cells(struct nlb_table *table, size_t slot, const uint8_t *cells)
{
    for (size_t bucket = 0; bucket < table->buckets; bucket++)
        if ((cells[bucket] & NLB_OWNER) > NLB_HOSTS_MAX)
            return "an owner of a bucket is not in 0..32";
    memcpy(&table->bucket[slot * NLB_BUCKETS_MAX], cells, table->buckets);
    return NULL;
}

static const char *
check_rules(const struct nlb_setup *setup)
{
    for (size_t slot = 0; slot < setup->rule_count; slot++) {
        const struct nlb_setup_rule *rule = &setup->rules[slot];
        if (rule->first_port > rule->last_port || rule->last_port > 65535)
            return "the ports of a rule are not a range within 0..65535";
        if (rule->protocol < NLB_TCP || rule->protocol > (NLB_TCP | NLB_UDP))
            return "the protocol of a rule is not TCP, UDP or both";
        if (rule->mode > NLB_DISABLED || rule->affinity > NLB_AFFINITY_NETWORK || rule->flags > NLB_RULE_CUT ||
            rule->counter >= NLB_RULE_COUNTS)
            return "the mode, the affinity, the flags or the counter of a rule are unknown";
        bool used = rule->for_all;
        for (size_t at = 0; at < setup->virtual_count; at++)
            used |= same(rule->address, setup->virtual_addresses[at]);
        if (!used)
            return "a rule is for an address that is no virtual address";
        for (size_t other = 0; other < slot; other++) {
            const struct nlb_setup_rule *before = &setup->rules[other];
            if (before->for_all == rule->for_all && (rule->for_all || same(before->address, rule->address)) &&
                (before->protocol & rule->protocol) && before->first_port <= rule->last_port &&
                rule->first_port <= before->last_port)
                return "two rules of the same address overlap";
        }
    }
    return NULL;
}

const char *
nlb_table_build(struct nlb_table *table, const struct nlb_setup *setup)
{
    memset(table, 0, sizeof *table);
    if (setup->buckets < 1 || setup->buckets > NLB_BUCKETS_MAX)
        return "the number of buckets is not in 1..1024";
    if (setup->self < 1 || setup->self > NLB_HOSTS_MAX)
        return "this host is not in 1..32";
    if (setup->rule_count > NLB_RULES_MAX)
        return "there are more than 32 rules";
    if (setup->virtual_count > NLB_ADDRESSES_MAX || setup->dedicated_count > NLB_ADDRESSES_MAX)
        return "there are more than 64 virtual or dedicated addresses";
    if (setup->state > NLB_RUNNING || setup->flags > 15 || setup->default_flags > NLB_RULE_CUT ||
        setup->default_counter >= NLB_RULE_COUNTS)
        return "the state or the flags are unknown";
    if (setup->open_sets < 1 || setup->open_sets > NLB_OPEN_SETS_MAX || (setup->open_sets & (setup->open_sets - 1)))
        return "the number of sets for open connections is not a power of two in 1..131072";
    const char *problem = check_rules(setup);
    if (problem != NULL)
        return problem;

    table->generation = setup->generation;
    table->seed[0] = setup->seed[0];
    table->seed[1] = setup->seed[1];
    make_keys(table->seed, "set", table->set_keys);
    make_keys(table->seed, "tag", table->tag_keys);
    table->open_sets = setup->open_sets;
    table->opening_ticks = setup->opening_ticks;
    table->idle_ticks = setup->idle_ticks;
    table->closing_ticks = setup->closing_ticks;
    table->gre_ticks = setup->gre_ticks;
    table->ipsec_ticks = setup->ipsec_ticks;
    table->fragment_ticks = setup->fragment_ticks;
    table->touch_ticks = setup->touch_ticks;
    table->buckets = (uint16_t)setup->buckets;
    table->self = (uint8_t)setup->self;
    table->state = (uint8_t)setup->state;
    table->flags = (uint8_t)setup->flags;
    memcpy(table->cluster_mac, setup->cluster_mac, 6);
    memcpy(table->own_mac, setup->own_mac, 6);

    size_t count = 0, lists = 1;
    fill_ranges(&table->ranges[0], setup, NULL, NLB_TCP);
    fill_ranges(&table->ranges[1], setup, NULL, NLB_UDP);
    table->icmp_slot[0] = icmp_rule(setup, NULL);
    for (size_t at = 0; at < setup->virtual_count + setup->dedicated_count; at++) {
        bool is_virtual = at < setup->virtual_count;
        struct nlb_target *target = &table->targets[++count];
        target->address =
            is_virtual ? setup->virtual_addresses[at] : setup->dedicated_addresses[at - setup->virtual_count];
        target->sort = is_virtual ? NLB_VIRTUAL : NLB_DEDICATED;
        if (is_unspecified(target->address))
            return "an address is the unspecified one";
        for (size_t other = 1; other < count; other++)
            if (same(table->targets[other].address, target->address))
                return "an address is given twice";
        for (size_t slot = 0; is_virtual && slot < setup->rule_count; slot++)
            if (!setup->rules[slot].for_all && same(setup->rules[slot].address, target->address)) {
                target->list = (uint8_t)lists++;
                fill_ranges(&table->ranges[target->list * 2], setup, &target->address, NLB_TCP);
                fill_ranges(&table->ranges[target->list * 2 + 1], setup, &target->address, NLB_UDP);
                table->icmp_slot[target->list] = icmp_rule(setup, &target->address);
                break;
            }
    }
    if (!lay_out(table, count))
        return "the addresses find no places";

    for (size_t slot = 0; slot < setup->rule_count && problem == NULL; slot++) {
        const struct nlb_setup_rule *rule = &setup->rules[slot];
        table->rules[slot] = (struct nlb_rule){rule->mode, rule->affinity, rule->flags, rule->counter};
        problem = fill_cells(table, slot, rule->cells);
    }
    if (problem == NULL)
        problem = fill_cells(table, NLB_SLOT_DEFAULT, setup->default_cells);
    table->rules[NLB_SLOT_DEFAULT] =
        (struct nlb_rule){NLB_DEFAULT, NLB_AFFINITY_SINGLE, setup->default_flags, setup->default_counter};
    return problem;
}
