/* Functions for packets, with a window: zero copy.
 *
 * A function defines `weir_configure` and `weir_process`, and `weir_tick` if it wants it. Compile
 * src/ and bindings/packet_function.c with it, as the `build` of a project does. */
#ifndef WEIR_PACKET_H
#define WEIR_PACKET_H

#include <string.h>
#include <weir/host.h>
#include <weir/json.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The packets that came at once, 1 to 256 of them. */
typedef struct weir_burst {
    /* Where the window begins (wit/window.md). */
    uint8_t *window;
    /* Packets. */
    uint32_t count;
} weir_burst;

/* One packet of a burst. Writing to it takes `access = "read-write"` in function.toml; without, a store is a fault. */
typedef struct weir_packet {
    /* Its bytes, from the link layer's header on. */
    uint8_t *data;
    /* How many. */
    uint32_t length;
    /* Its place in the burst. */
    uint32_t index;
} weir_packet;

/* A decision; the functions below make others. */
typedef uint32_t weir_verdict;

enum {
    /* Continue with the next function, or leave by the chain's output. What every packet has before. */
    WEIR_NEXT = 0,
    /* Leave by the port it came in by. */
    WEIR_REPLY = 2,
    /* Give it to the kernel's stack. */
    WEIR_TO_KERNEL = 4,
    /* Keep it: it is the function's when its burst is over, to be sent by `weir_send`. A function may own a quarter of the pool's
     * buffers; the host drops what it holds beyond that, and only `weir_owns` tells. */
    WEIR_HOLD = 6,
};

/* Free it; counted under this reason, below 2^24. Those from 63 on are counted as 63, together. */
static inline weir_verdict weir_drop(uint32_t reason) { return 1 | reason << 8; }
/* Leave by this port. */
static inline weir_verdict weir_forward(uint32_t port) { return 3 | port << 8; }
/* Continue with this function, which must come later in the packet's direction. */
static inline weir_verdict weir_jump(uint32_t function) { return 5 | function << 8; }
/* As WEIR_NEXT, and a copy leaves by this port. */
static inline weir_verdict weir_clone(uint32_t port) { return 7 | port << 8; }
/* The packet and its flow go to the function's n-th target; 0 is the kernel's stack. */
static inline weir_verdict weir_move(uint32_t target) { return 8 | target << 8; }
/* The same for all further packets of the flow in this direction. Of next, drop, reply, forward and to-kernel. */
static inline weir_verdict weir_for_flow(weir_verdict verdict) { return verdict | 0x80; }

/* Prepares the instance. False after `weir_refuse` has said why. `config` is the table [function.config]. */
bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error);

/* Decides about a burst. */
void weir_process(weir_burst *burst);

/* A timer that was set with `weir_set_timer` is due. Without one of the function's own, nothing happens. */
void weir_tick(uint64_t now);

/* The packet at a place below `burst->count`. */
static inline weir_packet weir_burst_packet(const weir_burst *burst, uint32_t index) {
    uint32_t descriptor[2];
    memcpy(descriptor, burst->window + 8 * index, 8);
    weir_packet packet = {burst->window + descriptor[0], descriptor[1], index};
    return packet;
}

/* The burst's time: monotonic nanoseconds; in a replay the capture's own. */
static inline uint64_t weir_burst_now(const weir_burst *burst) {
    uint64_t now;
    memcpy(&now, burst->window + 0x3000, 8);
    return now;
}

/* The same moment in nanoseconds since 1970, or 0 if the host does not know. */
static inline uint64_t weir_burst_wall(const weir_burst *burst) {
    uint64_t wall;
    memcpy(&wall, burst->window + 0x3008, 8);
    return wall;
}

/* Decides about the packet at a place below `burst->count`; the last decision counts. */
static inline void weir_set_verdict(weir_burst *burst, uint32_t index, weir_verdict verdict) {
    memcpy(burst->window + 0x1000 + 4 * index, &verdict, 4);
}

/* Number of the port that a packet came in by. */
static inline uint16_t weir_packet_port(const weir_burst *burst, uint32_t index) {
    uint16_t port;
    memcpy(&port, burst->window + 0x2000 + 8 * index, 2);
    return port;
}

/* True when a packet travels from the chain's `to` to its `from`. */
static inline bool weir_packet_reverse(const weir_burst *burst, uint32_t index) {
    return burst->window[0x2000 + 8 * index + 2] & 1;
}

/* True when a function made the packet. */
static inline bool weir_packet_made(const weir_burst *burst, uint32_t index) {
    return burst->window[0x2000 + 8 * index + 2] & 2;
}

/* The host's symmetric flow hash of a packet as it arrived, or 0. */
static inline uint32_t weir_packet_hash(const weir_burst *burst, uint32_t index) {
    uint32_t hash;
    memcpy(&hash, burst->window + 0x2000 + 8 * index + 4, 4);
    return hash;
}

/* Puts bytes in front of a packet, to be filled; what is in them is left over from earlier packets. Ports leave 128 bytes
 * free. False if there is no room; then nothing is changed. */
bool weir_packet_prepend(weir_burst *burst, weir_packet *packet, uint32_t bytes);

/* Takes bytes away from a packet's front. False if it has not so many; then nothing is changed. */
bool weir_packet_strip(weir_burst *burst, weir_packet *packet, uint32_t bytes);

/* Moves a packet's end; new bytes are left over from earlier packets. False if there is no room; then nothing is changed. */
bool weir_packet_resize(weir_burst *burst, weir_packet *packet, uint32_t length);

/* A packet that the function owns: held, or allocated. */
typedef struct weir_buffer {
    uint8_t *data;
    uint32_t length;
} weir_buffer;

/* A free buffer for a packet of so many bytes, to be filled and sent; `data` is NULL when the pool is empty or the function
 * has its share. */
weir_buffer weir_allocate(uint32_t length);

/* Lets go of a buffer: `weir_drop` frees it, WEIR_NEXT continues with the following function, and so on. A packet with the verdict
 * WEIR_HOLD can be sent when its burst is over. */
weir_refusal weir_send(weir_buffer buffer, weir_verdict verdict);

/* Whether the function owns a buffer, by a call. To be asked about what was held in a burst before the next one ends, and before the function
 * allocates: what the host dropped is soon another packet's buffer, which the function may get as well. */
bool weir_owns(weir_buffer buffer);

/* Copies bytes into a new packet and sends it: for rare packets such as ICMP errors. */
weir_refusal weir_send_copy(const uint8_t *bytes, uint32_t length, weir_verdict verdict);

#ifdef __cplusplus
}
#endif
#endif
