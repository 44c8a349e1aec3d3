/*
 * Two processors at the same places of a set: what is read is never taken for a flow that nobody noted.
 *
 * Flows are made of ADDRESSES clients and PORTS ports, and only those are noted whose two numbers are both even or both
 * odd; all fall into one set. A mixture of the words of two of them may be the name of one of the others. Writers note and
 * forget, a reader asks for every one of the others and must never find it. How often a mixture was there to be seen is
 * counted, so that one knows that there was something to be wrong about.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nlb_flows.h" /* For what the core asks of who includes it; it is not used. */
#include "nlb_sets.h"
#include "nlb_table.h"

#include "nlb_filter.c"

#define ADDRESSES 6
#define PORTS 6
#define WRITERS 2

static struct nlb_table table;
static struct nlb_set set;
static volatile int ended;

static struct nlb_key
key_of(unsigned address, unsigned port)
{
    uint8_t bytes[16] = {[10] = 0xff, [11] = 0xff, [12] = 198, [13] = 51, [14] = 100};
    struct nlb_key key;
    memset(&key, 0, sizeof key);
    bytes[15] = (uint8_t)address;
    memcpy(&key.client, bytes, 16);
    memcpy(&key.server, bytes, 16);
    key.client_port = (uint16_t)(1024 + port);
    key.server_port = 80;
    key.protocol = NLB_IP_TCP;
    return key;
}

static void
named(unsigned address, unsigned port, struct nlb_key *key, struct nlb_name *name)
{
    *key = key_of(address, port);
    nlb_name_flow(&table, key, name);
}

static void *
write_on(void *number)
{
    uint64_t state = (uint64_t)(uintptr_t)number * 2 + 1;
    for (uint64_t ticks = 1; !ended; ticks++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        unsigned address = (unsigned)(state >> 33) % ADDRESSES, port = (unsigned)(state >> 45) % PORTS;
        struct nlb_key key;
        struct nlb_name name;
        port = (port & ~1u) | (address & 1);
        named(address, port, &key, &name);
        struct nlb_flow flow = {ticks, NLB_OPENING};
        if (state >> 62 == 0)
            nlb_set_forget(&set, &name);
        else
            nlb_set_put(&set, &name, &key, &flow);
    }
    return NULL;
}

int
main(int argc, char **argv)
{
    struct nlb_setup setup = {.buckets = 1, .self = 1, .open_sets = 1, .seed = {1, 2}, .default_cells = (const uint8_t *)"\1"};
    /* Until so many mixtures were there, or for so many rounds. */
    uint64_t wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : 100, rounds = 100000000, mixtures = 0, wrong = 0;
    uint64_t spots[ADDRESSES * PORTS];
    if (nlb_table_build(&table, &setup) != NULL)
        return 2;
    for (unsigned at = 0; at < ADDRESSES * PORTS; at++) {
        struct nlb_key key;
        struct nlb_name name;
        named(at / PORTS, at % PORTS, &key, &name);
        spots[at] = name.spot;
        for (unsigned other = 0; other < at; other++)
            if ((spots[at] ^ spots[other]) << (64 - NLB_TAG_BITS) == 0) {
                fprintf(stderr, "two of the names have one tag; choose another seed\n");
                return 2;
            }
    }
    pthread_t threads[WRITERS];
    for (uintptr_t number = 0; number < WRITERS; number++)
        if (pthread_create(&threads[number], NULL, write_on, (void *)number) != 0)
            return 2;
    for (uint64_t round = 0; round < rounds && mixtures < wanted; round++)
        for (unsigned at = 0; at < ADDRESSES * PORTS; at++) {
            struct nlb_key key;
            struct nlb_name name;
            if ((at / PORTS + at % PORTS) % 2 == 0)
                continue;
            named(at / PORTS, at % PORTS, &key, &name);
            for (unsigned way = 0; way < NLB_WAYS; way++) {
                const volatile uint64_t *there = &set.names[way].high; /* And low behind it. */
                mixtures += there[0] == name.high && there[1] == name.low;
            }
            wrong += nlb_set_find(&set, &name) != 0;
        }
    ended = 1;
    for (int number = 0; number < WRITERS; number++)
        pthread_join(threads[number], NULL);
    printf("mixtures %llu\nwrong %llu\n", (unsigned long long)mixtures, (unsigned long long)wrong);
    return wrong != 0;
}
