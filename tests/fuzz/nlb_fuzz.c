/*
 * Fuzzing the packet filter with sanitizers: any table that can be built, any frames, in any order, with any times.
 *
 * An input is a script. Its beginning chooses a table; then each step is a header that says which good frame is made, how
 * it is bent (bytes laid over it, a cut), and how much time passes. Frames lie in memory of just their size, so that a
 * byte read beyond one is noticed. After every step the decision is looked at.
 *
 * Built with -DSTANDALONE there is a main() that makes inputs itself, for compilers without libFuzzer; see script/fuzz.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nlb_sets.h"
#include "nlb_table.h"

#include "nlb_filter.c"

#define FRAME_BYTES_MAX 256
#define INPUT_BYTES_MAX 4096
#define SETS 2

struct nlb_flows {
    uint64_t now_ticks;
};

static struct nlb_table *table;
static struct nlb_flows flows;
static struct nlb_set sets[NLB_FLOW_TABLES][SETS];

/* All that was ever put into sets, and what was last noted of it. */
static struct {
    uint32_t which;
    struct nlb_key key;
    struct nlb_flow flow;
} shadow[INPUT_BYTES_MAX];
static size_t shadows;
static uint64_t reasons[NLB_REASON_COUNT];

#define NLB_REASON_VERDICT(name, verdict, text) NLB_##verdict,
static const uint8_t verdicts[] = {NLB_REASONS(NLB_REASON_VERDICT)};

static void
require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static struct nlb_flow *
shadow_of(uint32_t which, const struct nlb_key *key)
{
    for (size_t at = 0; at < shadows; at++)
        if (shadow[at].which == which && memcmp(&shadow[at].key, key, sizeof *key) == 0)
            return &shadow[at].flow;
    return NULL;
}

NLB_CODE uint64_t
nlb_now(struct nlb_flows *known)
{
    return known == NULL ? 0 : known->now_ticks;
}

NLB_CODE const struct nlb_flow *
nlb_flow_find(struct nlb_flows *known, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    static struct nlb_flow found;
    if (known == NULL)
        return NULL;
    uint64_t noted = nlb_set_find(&sets[which][nlb_set_number(name, SETS)], name);
    if (noted == 0)
        return NULL;
    found = nlb_noted_flow(noted);
    const struct nlb_flow *put = shadow_of(which, key);
    require(put != NULL && put->state == found.state && put->seen_ticks == found.seen_ticks, "sets know what was put");
    return &found;
}

NLB_CODE void
nlb_flow_put(struct nlb_flows *known, uint32_t which, const struct nlb_key *key, const struct nlb_name *name,
             const struct nlb_flow *flow)
{
    if (known == NULL)
        return;
    struct nlb_set *set = &sets[which][nlb_set_number(name, SETS)];
    uint64_t left = UINT64_MAX;
    int there = nlb_set_find(set, name) != 0;
    for (uint32_t way = 0; way < NLB_WAYS; way++) {
        uint64_t seen = set->noted[way] == 0 ? 0 : nlb_noted_flow(set->noted[way]).seen_ticks;
        left = seen < left ? seen : left;
    }
    struct nlb_set before = *set;
    nlb_set_put(set, name, key, flow);
    for (uint32_t way = 0; way < NLB_WAYS; way++)
        require(there || set->noted[way] == before.noted[way] || before.noted[way] == 0 ||
                    nlb_noted_flow(before.noted[way]).seen_ticks == left,
                "the oldest gives way");
    struct nlb_flow *put = shadow_of(which, key);
    if (put == NULL) {
        require(shadows < INPUT_BYTES_MAX, "there is room for shadows");
        shadow[shadows].which = which;
        shadow[shadows].key = *key;
        put = &shadow[shadows++].flow;
    }
    *put = *flow;
    require(nlb_flow_find(known, which, key, name) != NULL, "what was put is found");
}

NLB_CODE void
nlb_flow_forget(struct nlb_flows *known, uint32_t which, const struct nlb_key *key, const struct nlb_name *name)
{
    if (known == NULL)
        return;
    nlb_set_forget(&sets[which][nlb_set_number(name, SETS)], name);
    require(nlb_flow_find(known, which, key, name) == NULL, "what was forgotten is not found");
}

static struct nlb_address
address(int v6, uint8_t last)
{
    uint8_t bytes[16] = {0};
    if (v6) {
        bytes[0] = 0x20;
        bytes[1] = 1;
    } else {
        bytes[10] = bytes[11] = 0xff;
        bytes[12] = 192;
    }
    bytes[15] = last;
    struct nlb_address result;
    memcpy(&result, bytes, 16);
    return result;
}

/* A table out of sixteen bytes of choice; false if such a one is refused. */
static bool
choose_table(const uint8_t *choice)
{
    static uint8_t cells[4][NLB_BUCKETS_MAX];
    static const uint32_t bucket_counts[] = {1, 7, 60, 960, 1024, 0, 1025, 60};
    struct nlb_address virtual_addresses[] = {address(0, 1), address(1, 1), address(0, 2), address(1, 2)};
    struct nlb_address dedicated[] = {address(0, choice[6] % 8 == 0 ? 1 : 9), address(1, 9)};
    struct nlb_setup_rule rules[3] = {0};
    struct nlb_setup setup = {
        .seed = {choice[0], choice[1]},
        .opening_ticks = 500, .idle_ticks = 4000, .closing_ticks = 1000, .gre_ticks = 2000, .ipsec_ticks = 3000,
        .fragment_ticks = 300, .touch_ticks = 100,
        .buckets = bucket_counts[choice[2] % 8],
        .open_sets = choice[3] == 255 ? choice[4] : SETS,
        .self = choice[3] % 32 == 0 ? choice[3] : choice[3] % 2 + 1,
        .state = choice[4] % 16 != 0,
        .flags = choice[5] & 15,
        .cluster_mac = {2, 0xbf},
        .own_mac = {2, 1},
        .virtual_addresses = virtual_addresses,
        .virtual_count = choice[6] / 8 % 5,
        .dedicated_addresses = dedicated,
        .dedicated_count = 2,
        .rules = rules,
        .rule_count = choice[7] % 4,
        .default_cells = cells[3],
    };
    for (size_t at = 0; at < 4; at++)
        for (size_t bucket = 0; bucket < NLB_BUCKETS_MAX; bucket++) {
            uint8_t mixed = (uint8_t)(choice[8 + at] * (bucket + 3) >> 2);
            cells[at][bucket] = (mixed & 0xc0) | (choice[8 + at] == 255 ? mixed % 64 : mixed % 3);
        }
    for (size_t at = 0; at < 3; at++) {
        uint8_t word = choice[12 + at];
        rules[at] = (struct nlb_setup_rule){
            .for_all = word & 1,
            .address = virtual_addresses[word >> 1 & 3],
            .first_port = word & 8 ? 80 * at : 0,
            .last_port = word & 16 ? 65535 : 80 * at + 79,
            .protocol = (word >> 5 & 3) == 0 && word != 64 ? 3 : word >> 5 & 3,
            .mode = choice[15] >> (2 * at) & 3,
            .affinity = (choice[0] >> (2 * at)) & 3,
            .flags = word == 77,
            .cells = cells[at],
        };
    }
    return nlb_table_build(table, &setup) == NULL;
}

static size_t
put(uint8_t *frame, size_t at, const void *data, size_t length)
{
    memcpy(frame + at, data, length);
    return at + length;
}

/* A good frame out of eight bytes of choice. */
static size_t
make_frame(const uint8_t *choice, uint8_t frame[FRAME_BYTES_MAX])
{
    static const uint8_t protocols[] = {6, 6, 6, 17, 47, 50, 51, 1, 58, 132, 6, 17, 1, 58, 6, 17};
    static const uint16_t ports[] = {80, 0, 443, 500, 4500, 1723, 79, 65535};
    static const uint8_t tcp_flags[] = {2, 16, 17, 4, 24, 18, 2, 16};
    static const uint8_t servers[] = {1, 1, 2, 1, 2, 1, 9, 5};
    int v6 = choice[0] & 1, fragments = (choice[0] & 6) == 6;
    uint8_t protocol = protocols[choice[1] & 15];
    uint16_t source_port = NLB_BE16((uint16_t)(1000 + (choice[2] & 3))), port = NLB_BE16(ports[choice[2] >> 2 & 7]);
    struct nlb_address client = address(v6, 100 + (choice[3] & 3)), server = address(v6, servers[choice[3] >> 5]);
    uint8_t fragment[2] = {choice[4] & 0x20, choice[4] & 1 ? 8 : 0};
    memset(frame, 0, FRAME_BYTES_MAX);
    frame[0] = 2;
    frame[1] = choice[0] & 8 ? 0 : 0xbf;
    frame[12] = v6 ? 0x86 : 8;
    frame[13] = v6 ? 0xdd : 0;
    if (choice[0] & 128 && !(choice[0] & 112))
        frame[12] = 0x88;
    size_t at = 14, length_at;
    if (v6) {
        uint8_t walked = choice[5] & 7, *next = frame + 20;
        frame[14] = 0x60;
        length_at = 18;
        put(frame, 22, &client, 16);
        put(frame, 38, &server, 16);
        at = 54;
        for (uint8_t number = 0; number < walked; number++, at += 8) {
            *next = number % 2 ? 60 : 43;
            next = frame + at;
        }
        if (fragments) {
            *next = 44;
            frame[at + 2] = choice[4] & 1;
            frame[at + 3] = choice[4] & 32 ? 1 : 0;
            frame[at + 7] = choice[4] >> 6;
            next = frame + at;
            at += 8;
        }
        *next = protocol;
    } else {
        uint8_t options = choice[5] & 3;
        frame[14] = 0x45 + options;
        frame[19] = choice[4] >> 6;
        if (fragments)
            put(frame, 20, fragment, 2);
        frame[23] = protocol;
        put(frame, 26, (uint8_t *)&client + 12, 4);
        put(frame, 30, (uint8_t *)&server + 12, 4);
        length_at = 16;
        at = 34 + 4 * options;
    }
    if (protocol == 6) {
        put(frame, at, &source_port, 2);
        put(frame, at + 2, &port, 2);
        frame[at + 12] = 0x50;
        frame[at + 13] = tcp_flags[choice[6] & 7];
        at += 20;
    } else if (protocol == 17) {
        put(frame, at, &source_port, 2);
        put(frame, at + 2, &port, 2);
        frame[at + 8 + (choice[6] & 4)] = 1; /* Perhaps the first message of IKE. */
        at += 8 + (choice[6] & 1 ? 28 : 0);
    } else if (protocol == 1 || protocol == 58) {
        static const uint8_t types[] = {8, 3, 128, 1, 135, 11, 0, 129};
        frame[at] = types[choice[6] & 7];
        at += 8;
        if (choice[6] & 8) { /* What it quotes went from the server to the client. */
            frame[at] = v6 ? 0x60 : 0x45;
            frame[at + (v6 ? 6 : 9)] = protocols[choice[6] >> 4];
            put(frame, at + (v6 ? 8 : 12), (uint8_t *)&server + (v6 ? 0 : 12), v6 ? 16 : 4);
            put(frame, at + (v6 ? 24 : 16), (uint8_t *)&client + (v6 ? 0 : 12), v6 ? 16 : 4);
            put(frame, at + (v6 ? 40 : 20), &port, 2);
            put(frame, at + (v6 ? 42 : 22), &source_port, 2);
            at += v6 ? 48 : 28;
        }
    } else
        at += 16;
    uint16_t total = NLB_BE16((uint16_t)(at - (v6 ? 54 : 14)));
    put(frame, length_at, &total, 2);
    return at;
}

static void
look(const struct nlb_work *work)
{
    const struct nlb_decision *d = &work->decision;
    require(d->reason < NLB_REASON_COUNT && d->verdict == verdicts[d->reason], "verdict and reason belong together");
    require(d->slot == NLB_SLOT_NONE || d->slot < NLB_SLOTS, "the rule exists");
    require(d->bucket < table->buckets, "the bucket exists");
    require(d->owner <= NLB_HOSTS_MAX, "the owner is a host");
    bool by_bucket = d->reason == NLB_REASON_BUCKET_OWNER || d->reason == NLB_REASON_SINGLE_HOST ||
                     d->reason == NLB_REASON_DEFAULT_HOST;
    require(!by_bucket || d->owner == table->self, "who owns it takes it");
    require(table->state == NLB_RUNNING || d->verdict != NLB_ACCEPT, "a stopped host takes nothing");
    require(!d->rewrite || (d->verdict == NLB_ACCEPT && (table->flags & NLB_FLAG_REWRITE)),
            "only what is accepted is readdressed");
    bool known = d->reason == NLB_REASON_KNOWN_CONNECTION || d->reason == NLB_REASON_KNOWN_SESSION;
    require(!known || (d->known >= NLB_OPENING && d->known <= NLB_CLOSING), "what is known is known");
    reasons[d->reason]++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (table == NULL) {
        table = malloc(sizeof *table);
        require(table != NULL, "there is memory");
    }
    memset(sets, 0, sizeof sets);
    shadows = 0;
    flows.now_ticks = 0;
    if (size < 16 || size > INPUT_BYTES_MAX || !choose_table(data))
        return 0;
    data += 16;
    size -= 16;
    uint8_t kept[8] = {0};
    while (size >= 12) {
        uint8_t frame[FRAME_BYTES_MAX];
        if (data[8] & 0x60) { /* Mostly the next packet of what came before. */
            kept[4] = data[4];
            kept[6] = data[6];
        } else
            memcpy(kept, data, sizeof kept);
        size_t length = make_frame(kept, frame);
        uint8_t how = data[8], place = data[9], bits = data[10];
        flows.now_ticks += data[11] & 128 ? (data[11] & 127) * 10u : 0;
        data += 12;
        size -= 12;
        if (how % 8 == 1)
            frame[place] ^= bits;
        if (how % 8 == 2)
            length = place % (length + 1);
        if (how % 8 == 3 && size >= 16) {
            memcpy(frame + place % (FRAME_BYTES_MAX - 16), data, 16);
            data += 16;
            size -= 16;
        }
        uint8_t *exact = malloc(length ? length : 1);
        require(exact != NULL, "there is memory");
        memcpy(exact, frame, length);
        struct nlb_work first, again, work;
        nlb_decide(table, NULL, exact, exact + length, &first);
        nlb_decide(table, NULL, exact, exact + length, &again);
        require(memcmp(&first.decision, &again.decision, sizeof first.decision) == 0, "the same again is the same");
        nlb_decide(table, &flows, exact, exact + length, &work);
        require(work.decision.slot == first.decision.slot && work.decision.bucket == first.decision.bucket,
                "what is known does not change where a packet belongs");
        look(&first);
        look(&work);
        free(exact);
    }
    return 0;
}

#ifdef STANDALONE
#define NLB_REASON_WORD(name, verdict, text) text,
static const char *const names[] = {NLB_REASONS(NLB_REASON_WORD)};

/* Inputs of its own: xorshift64*, as good as needed to reach every branch. */
int
main(int argc, char **argv)
{
    uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : 1, runs = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    for (uint64_t run = 0; run < runs; run++) {
        uint8_t input[1024];
        for (size_t at = 0; at < sizeof input; at++) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            input[at] = (uint8_t)((state * 0x2545f4914f6cdd1dull) >> 56);
        }
        LLVMFuzzerTestOneInput(input, sizeof input);
    }
    for (int reason = 0; reason < NLB_REASON_COUNT; reason++)
        printf("%s %llu\n", names[reason], (unsigned long long)reasons[reason]);
    free(table);
    return 0;
}
#endif
