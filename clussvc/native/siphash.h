/*
 * SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), the keyed tag
 * of heartbeats. No state, no system call.
 */

#ifndef CLUSSVC_SIPHASH_H
#define CLUSSVC_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t
load_le64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int byte = 7; byte >= 0; byte--)
        value = (value << 8) | at[byte];
    return value;
}

static inline void
store_le64(uint8_t *at, uint64_t value)
{
    for (int byte = 0; byte < 8; byte++, value >>= 8)
        at[byte] = (uint8_t)value;
}

#define SIP_ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline void
sip_rounds(struct sip *s, int rounds)
{
    while (rounds--) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = SIP_ROTATE(s->v1, 13) ^ s->v0;
        s->v3 = SIP_ROTATE(s->v3, 16) ^ s->v2;
        s->v0 = SIP_ROTATE(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = SIP_ROTATE(s->v1, 17) ^ s->v2;
        s->v3 = SIP_ROTATE(s->v3, 21) ^ s->v0;
        s->v2 = SIP_ROTATE(s->v2, 32);
    }
}

static inline void
siphash128(const uint8_t key[16], const uint8_t *data, size_t length, uint8_t tag[16])
{
    uint64_t k0 = load_le64(key), k1 = load_le64(key + 8);
    struct sip s = {
        0x736f6d6570736575ull ^ k0,
        0x646f72616e646f6dull ^ k1 ^ 0xee, /* 0xee and 0xdd below set the wide output apart from the narrow one. */
        0x6c7967656e657261ull ^ k0,
        0x7465646279746573ull ^ k1,
    };
    uint64_t last = (uint64_t)length << 56;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word = load_le64(data);
        s.v3 ^= word;
        sip_rounds(&s, 2);
        s.v0 ^= word;
    }
    for (size_t byte = 0; byte < length; byte++)
        last |= (uint64_t)data[byte] << (8 * byte);
    s.v3 ^= last;
    sip_rounds(&s, 2);
    s.v0 ^= last;
    s.v2 ^= 0xee;
    sip_rounds(&s, 4);
    store_le64(tag, s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
    s.v1 ^= 0xdd;
    sip_rounds(&s, 4);
    store_le64(tag + 8, s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
}

#endif
