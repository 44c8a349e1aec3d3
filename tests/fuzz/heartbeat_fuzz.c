/*
 * Fuzzing the heartbeat core with sanitizers: any bytes, authentic or not, in any order, with any times.
 *
 * An input is a script. Each step is a byte that says what happens, two bytes of time that passes, and for a datagram a
 * byte of length and that many bytes, which are laid over a good heartbeat at a place of their choice; half of the
 * datagrams are signed again afterwards, so that the code behind the tag is reached. After every step the invariants of
 * heartbeat_core.h are looked at.
 *
 * Built with -DSTANDALONE there is a main() that makes inputs itself, for compilers without libFuzzer; see script/fuzz.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heartbeat_core.h"
#include "siphash.h"

static const uint8_t key[HB_KEY_BYTES] = "0123456789abcdef";
static struct hb_core *core;
static uint64_t datagrams, taken;
static uint8_t last[HB_DATAGRAM_BYTES_MAX];
static size_t kept;

static void
require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void
look(void)
{
    uint64_t counted = 0;
    for (int outcome = 0; outcome < HB_OUTCOMES; outcome++)
        counted += core->outcomes[outcome];
    require(counted == datagrams, "every datagram is counted once");
    require(core->queue_used <= HB_QUEUE_BYTES, "the queue is within its bound");
    require(core->peer_count <= HB_PEERS_MAX, "the peers are within their bound");
    require(core->outcomes[HB_RECEIVED] == taken + core->queue_records + core->overflowed,
            "what was received is taken, waits, or was pushed out");
}

static size_t
good(struct hb_core *sender, uint8_t out[HB_DATAGRAM_BYTES_MAX], const uint8_t *choice)
{
    struct hb_content content = {.incarnation = choice[0], .index = choice[1], .phase = choice[0] % HB_PHASES};
    hb_vouch(sender, &content, INT64_MAX, choice[1] & 2 ? INT64_MAX : 0, choice[1] & 1);
    return hb_compose(sender, choice[0], out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint16_t nodes[] = {2, 3, 4, 5};
    int64_t now_ms = 1000;
    static struct hb_core *sender;
    if (core == NULL) {
        core = malloc(sizeof *core);
        sender = malloc(sizeof *sender);
    }
    require(core != NULL && sender != NULL, "there is memory");
    uint16_t others[] = {1, 3, 4};
    hb_init(sender, 2, 7, key, 0);
    hb_set_peers(sender, others, 3, 0);
    hb_init(core, 1, 3, key, 0);
    hb_set_peers(core, nodes, 3, now_ms);
    datagrams = taken = 0;
    kept = 0;
    while (size >= 6) {
        uint8_t what = data[0], place = data[3], length = data[4], detail = data[5];
        now_ms += data[1] | data[2] << 8;
        data += 6;
        size -= 6;
        switch (what % 6) {
        case 0: {
            struct hb_content content = {.incarnation = what, .index = place, .phase = detail % HB_PHASES};
            uint8_t out[HB_DATAGRAM_BYTES_MAX];
            hb_vouch(core, &content, now_ms + place, now_ms + place / 2, what & 8);
            size_t written = hb_compose(core, now_ms, out);
            require(written <= HB_DATAGRAM_BYTES_MAX && (written == 0) == (place == 0), "composed while vouched for");
            break;
        }
        case 1:
            hb_set_peers(core, nodes, detail % 5, now_ms);
            break;
        case 2:
            hb_watch(core, nodes, detail % 5, place - 1);
            break;
        case 3: {
            struct hb_record record;
            while (hb_take(core, &record)) {
                require(record.count <= HB_NODES_MAX && record.content.phase < HB_PHASES, "what is taken makes sense");
                taken++;
            }
            break;
        }
        default: {
            uint8_t datagram[HB_DATAGRAM_BYTES_MAX + 300];
            struct hb_heard heard;
            uint8_t choice[2] = {place, detail};
            /* A new heartbeat, or an earlier one once more. */
            if (!(what & 128) || !kept)
                kept = detail % 16 == 9 ? hb_compose_will(sender, place, last) : good(sender, last, choice);
            memcpy(datagram, last, kept);
            size_t whole = kept;
            if (what & 64)
                length %= 4; /* Mostly whole. */
            size_t given = length < size ? length : size;
            size_t at = place * 4u % (HB_DATAGRAM_BYTES_MAX + 1);
            if (at > whole)
                memset(datagram + whole, detail, at - whole);
            memcpy(datagram + at, data, given);
            if (at + given > whole)
                whole = at + given;
            if (detail & 64 && whole > given)
                whole -= given;
            if ((what & 96) && whole >= HB_TAG_BYTES)
                siphash128(key, datagram, whole - HB_TAG_BYTES, datagram + whole - HB_TAG_BYTES);
            data += given;
            size -= given;
            datagrams++;
            int64_t quiet_ms[HB_PEERS_MAX];
            for (size_t number = 0; number < core->peer_count; number++)
                quiet_ms[number] = core->peers[number].quiet_from_ms;
            if (hb_receive(core, datagram, whole, now_ms, detail, what & 16, &heard) != HB_RECEIVED ||
                datagram[HB_HEADER_BYTES] == HB_PHASE_STOPPED)
                for (size_t number = 0; number < core->peer_count; number++)
                    require(quiet_ms[number] == core->peers[number].quiet_from_ms,
                            "no silence ends with a last will, nor with what was not received");
        }
        }
        look();
    }
    return 0;
}

#ifdef STANDALONE
/* Inputs of its own: xorshift64*, as good as needed to reach every branch. */
int
main(int argc, char **argv)
{
    uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : 1, runs = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    uint64_t all[HB_OUTCOMES] = {0};
    for (uint64_t run = 0; run < runs; run++) {
        uint8_t input[512];
        for (size_t at = 0; at < sizeof input; at++) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            input[at] = (uint8_t)((state * 0x2545f4914f6cdd1dull) >> 56);
        }
        LLVMFuzzerTestOneInput(input, sizeof input);
        for (int outcome = 0; outcome < HB_OUTCOMES; outcome++)
            all[outcome] += core->outcomes[outcome];
    }
    for (int outcome = 0; outcome < HB_OUTCOMES; outcome++)
        printf("%s %llu\n", hb_outcome_names[outcome], (unsigned long long)all[outcome]);
    return 0;
}
#endif
