/* What Weir uses of DPDK, as plain functions over plain types.
 *
 * Much of DPDK's interface is inline functions and macros, and its structures change from version to version.
 * So none of them is seen outside shim.c: a burst crosses as an array of the caller's own records, and all else in
 * the structures below. Functions that return int give 0, or an errno made negative.
 *
 * Who may call what. Everything but weir_dpdk_version and weir_dpdk_init needs that weir_dpdk_init has given 0 (the EAL runs).
 * Pointers are to what the type says, readable and, if not const, writable until the call returns; texts end with a zero. Beyond that
 * each function, or group of them, says one of these, and what there is besides:
 *
 * [S] setup: the port is open, which is from weir_dpdk_probe to weir_dpdk_remove. No other thread calls [S] for the port, nor [Q].
 * [C] control: the port is open, and nobody removes it during the call. Other threads may be in [Q] of the port, beside which drivers
 *     take such calls, and in functions of [C] that only ask.
 * [Q] queue: the port is started, and nobody stops or removes it during the call. No other thread is in [Q] for this queue.
 * [P] pool: the pool is there until the call returns.
 *
 * "Started" is from weir_dpdk_start to weir_dpdk_stop or weir_dpdk_remove. What is wrong in another way (a number of a queue that
 * the port does not have, an MTU that its driver does not know) is an error, and no harm.
 */
#ifndef WEIR_DPDK_SHIM_H
#define WEIR_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Maximum number of packets of one call of weir_dpdk_receive or weir_dpdk_send. */
#define WEIR_DPDK_BURST 256

/* Process-wide. */

/* Is given each line of DPDK's log: its level (1 worst, 8 debug), its text without a final zero, and its length. */
typedef void (*weir_dpdk_log)(uint32_t level, const char *text, size_t length);

/* A constant. May be called at any time. */
const char *weir_dpdk_version(void);
/* Starts the EAL. Once in a process. The arguments end with a null pointer, and they and `log` stay for ever. */
int weir_dpdk_init(int argc, char **argv, weir_dpdk_log log);
/* Makes the calling thread, which is none of DPDK's, one of them, so that it has caches of its own. */
int weir_dpdk_thread_register(void);
/* For a thread that was registered, and calls nothing of DPDK any more. */
void weir_dpdk_thread_unregister(void);

/* Pools. */

/* The owner's stack of free rooms. */
struct weir_dpdk_owner {
	void *context;
	/* Takes exactly so many rooms and writes their offsets in the window; false: there are fewer, none was taken. */
	bool (*take)(void *context, uint32_t *offsets, uint32_t count);
	/* Takes them back. */
	void (*give)(void *context, const uint32_t *offsets, uint32_t count);
};

struct weir_dpdk_pool;

/* A mempool whose mbuf headers lie in DPDK's memory and whose data rooms are the window's: rooms of `room_bytes`,
 * the first at `rooms_start` from `window`. Its free rooms are the owner's. The window and the owner's context stay until
 * weir_dpdk_pool_free; the owner's functions are called by whichever thread is in a call with the pool, or with a device that has it. */
int weir_dpdk_pool_new(void *window, uint32_t rooms_start, uint32_t rooms, uint32_t room_bytes, uint32_t headroom,
		       uint32_t cache, const struct weir_dpdk_owner *owner, struct weir_dpdk_pool **made);
/* [P] Gives the owner what lies in the caches of DPDK's threads, none of which may use the pool now. */
void weir_dpdk_pool_flush(struct weir_dpdk_pool *pool);
/* [P] No device has the pool any more, and nobody names it again. */
void weir_dpdk_pool_free(struct weir_dpdk_pool *pool);

/* A mempool of DPDK's own memory, for drivers that cannot do with the window. */
struct weir_dpdk_bounce;
/* Any thread. */
int weir_dpdk_bounce_new(uint32_t buffers, uint32_t buffer_bytes, struct weir_dpdk_bounce **made);
/* No device has it any more, and nobody names it again. */
void weir_dpdk_bounce_free(struct weir_dpdk_bounce *bounce);

/* Devices. */

struct weir_dpdk_info {
	char driver[64];
	uint32_t min_rx_bytes;
	uint32_t max_rx_bytes;
	uint32_t min_mtu;
	uint32_t max_mtu;
	uint32_t max_rx_queues;
	uint32_t max_tx_queues;
	uint16_t rx_descriptors_min;
	uint16_t rx_descriptors_max;
	uint16_t rx_descriptors_align;
	uint16_t rx_descriptors_default;
	uint16_t tx_descriptors_min;
	uint16_t tx_descriptors_max;
	uint16_t tx_descriptors_align;
	uint16_t tx_descriptors_default;
	uint16_t rss_table; /* entries of the table from hash to queue; 0: it does not say, or takes no key of ours */
	bool rx_checksums; /* it verifies those of IPv4, TCP and UDP */
	bool tx_checksums; /* it fills them in */
	uint64_t rss_fields; /* RTE_ETH_RSS_*: by what of IP flows it spreads them over queues; 0: it does not */
	uint8_t mac[6];	   /* its hardware address; zeroes: it has none */
};

struct weir_dpdk_setup {
	uint32_t mtu; /* 0: the device's own */
	uint16_t queues;
	bool checksums; /* verified when received, filled in when sent; as far as the device does */
	bool interrupts; /* receive queues are to have them, if the driver has */
};

struct weir_dpdk_link {
	uint32_t mbit; /* UINT32_MAX: unknown */
	bool up;
	bool full_duplex;
};

struct weir_dpdk_stats {
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t rx_no_buffer;
	uint64_t tx_packets;
	uint64_t tx_errors;
};

typedef void (*weir_dpdk_value)(void *context, const char *name, uint64_t value);

/* Adds a device and gives its port's number. One thread at a time is in this or in weir_dpdk_remove. */
int weir_dpdk_probe(const char *bus, const char *name, const char *arguments, uint16_t *port);
/* [S] Stops and closes a port and takes its device away; UINT16_MAX: a device that is nobody's port. Nobody is in [C] of the port, and
 * its number is not used again. */
int weir_dpdk_remove(const char *bus, const char *name, uint16_t port);
/* [C] */
int weir_dpdk_info(uint16_t port, struct weir_dpdk_info *info);
/* [S] Not started. */
int weir_dpdk_configure(uint16_t port, const struct weir_dpdk_setup *setup);
/* [S] Has the table from hash to queue count round the queues, and makes sure that the hash is symmetric. For a started
 * device that has one. */
int weir_dpdk_spread(uint16_t port, uint16_t queues);
/* [S] Configured. */
int weir_dpdk_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);
/* [S] Configured, not started. The pool, and the bounce if it is not null, stay until the port is removed: the device writes
 * to their rooms. */
int weir_dpdk_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct weir_dpdk_pool *pool,
		       struct weir_dpdk_bounce *bounce);
/* [S] Configured, not started. */
int weir_dpdk_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors);
/* [S] Configured, with all its queues. The device writes to its pools from now on. */
int weir_dpdk_start(uint16_t port);
/* [S] Started. The device writes to no pool any more. */
int weir_dpdk_stop(uint16_t port);
/* [C] Whether it puts frames that are longer than one of its buffers into several. For a started device. */
bool weir_dpdk_scatters(uint16_t port, uint16_t queue);
/* [S] Lets a device of vfio write to this memory by itself, and with it all others: they share their mappings. So this is
 * for the first of them, and the other for the last one, once all are stopped. The memory stays, and nobody relies on what it
 * holds but who owns the rooms, until the other. */
int weir_dpdk_dma_map(uint16_t port, void *start, size_t bytes);
/* [S] What was mapped, with the same bounds. No device that writes there is started. */
int weir_dpdk_dma_unmap(uint16_t port, void *start, size_t bytes);
/* [C] for these and those that follow, but for the one that says otherwise. */
int weir_dpdk_set_promiscuous(uint16_t port, bool on);
int weir_dpdk_set_multicast(uint16_t port, bool on);
bool weir_dpdk_is_promiscuous(uint16_t port);
/* [S] Not started. */
int weir_dpdk_set_mtu(uint16_t port, uint16_t mtu);
int weir_dpdk_mtu(uint16_t port, uint16_t *mtu);
int weir_dpdk_link(uint16_t port, struct weir_dpdk_link *link);
int weir_dpdk_stats(uint16_t port, struct weir_dpdk_stats *stats);
/* Calls `each` before it returns, in this thread, with `context` and a name that is there for the call. */
int weir_dpdk_xstats(uint16_t port, void *context, weir_dpdk_value each);
bool weir_dpdk_is_removed(uint16_t port);
/* What weir_dpdk_watch writes: the device went away, or was reset and has to be set up anew. */
#define WEIR_DPDK_REMOVED 1
#define WEIR_DPDK_RESET 2
/* [C] Writes to `flag`, which is 0, what becomes of the device: in a thread of DPDK's, until weir_dpdk_unwatch. So the flag stays
 * until then, and whoever reads it does so atomically. */
int weir_dpdk_watch(uint16_t port, uint8_t *flag);
/* [C] A flag that is watched. */
void weir_dpdk_unwatch(uint16_t port, uint8_t *flag);

/* Receive interrupts. */

/* [Q] for all of these but the last. */
/* Has a started queue's interrupt make an epoll(7) of the caller's readable. An error: the driver has none. */
int weir_dpdk_interrupt_add(uint16_t port, uint16_t queue, int epoll);
/* What was added. */
int weir_dpdk_interrupt_remove(uint16_t port, uint16_t queue, int epoll);
/* One interrupt from now on, when there are packets; a driver whose descriptor always tells needs no switch. */
int weir_dpdk_interrupt_on(uint16_t port, uint16_t queue);
int weir_dpdk_interrupt_off(uint16_t port, uint16_t queue);
/* Takes those that were there, and says how many. For an epoll with nothing but such interrupts in it. */
int weir_dpdk_interrupts_clear(int epoll);

/* Rules of the device's own. */

struct weir_dpdk_flow;

/* Which packets a rule means: what is named has to be so. Numbers as the host has them, addresses as packets do. */
struct weir_dpdk_match {
	bool has_destination_mac;
	bool has_source_mac;
	bool has_vlan;
	bool has_ethertype; /* 0x0800 and 0x86dd: what is below is of IPv4 or IPv6 */
	bool has_protocol;
	bool has_dscp;
	bool no_fragment;
	uint8_t destination_mac[6];
	uint8_t source_mac[6];
	uint8_t protocol;
	uint8_t dscp;
	uint16_t vlan;
	uint16_t ethertype;
	uint16_t source_port;
	uint16_t source_port_mask; /* of TCP, UDP or SCTP, as `protocol` says */
	uint16_t destination_port;
	uint16_t destination_port_mask;
	uint8_t source[16]; /* of IPv4 the last four bytes */
	uint8_t source_mask[16];
	uint8_t destination[16];
	uint8_t destination_mask[16];
};

/* [C] for these three, from any thread: DPDK locks for drivers that do not. A rule is there from the first to the
 * second, or until the port is stopped. */
/* Has a started device drop such packets and, if `count`, count them. When it refuses, its reason is written to `message`, of
 * so many bytes and with a zero at its end; empty: it gave none. */
int weir_dpdk_flow_drop(uint16_t port, const struct weir_dpdk_match *match, bool count, struct weir_dpdk_flow **made,
			char *message, size_t bytes);
int weir_dpdk_flow_remove(uint16_t port, struct weir_dpdk_flow *flow);
/* Packets that a rule which counts has dropped. */
int weir_dpdk_flow_packets(uint16_t port, struct weir_dpdk_flow *flow, uint64_t *packets);

/* The hot path. */

/* A packet as the caller has it. */
struct weir_dpdk_packet {
	uint32_t offset; /* of the first byte, in the window */
	uint32_t length;
	uint64_t metadata; /* the caller's own */
	uint64_t time;	   /* the caller's own */
	uint32_t room;	   /* that it lies in: 0 is the first one */
	uint32_t cut;	   /* the caller's own, 0 if it was received here */
};

/* What there is to say about a burst that was received: its bytes, frames that it could not deliver, or that are worth a
 * remark. */
struct weir_dpdk_said {
	uint64_t bytes;
	uint32_t too_large;
	uint32_t no_room;
	uint32_t bad_checksum;
};

struct rte_mbuf;

/* [Q] Receives at most `max` frames, for which there is room and which weir_dpdk_take has to be given then. */
uint16_t weir_dpdk_receive(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t max);
/* [P] Makes packets of frames that weir_dpdk_receive gave, with room for `count` packets, all with this metadata and time; how many there are. Those frames that do not lie in one room of
 * the pool (several segments, or a driver with memory of its own) are copied into one. If `verify`, those with a wrong
 * checksum are freed: the device says which, or does not know and they are looked at. */
uint16_t weir_dpdk_take(struct weir_dpdk_pool *pool, struct rte_mbuf **frames, uint16_t count, uint64_t metadata,
			uint64_t time, bool verify, struct weir_dpdk_packet *packets, struct weir_dpdk_said *said);

struct weir_dpdk_sending {
	uint32_t shortest; /* bytes of a frame */
	uint32_t longest;
	uint32_t retries; /* while the device takes none */
	bool checksums;	  /* the device fills in those of IPv4, TCP and UDP */
};

/* [Q] Takes back the rooms of what the device has sent, as far as its driver can. */
void weir_dpdk_take_back(uint16_t port, uint16_t queue);
/* [Q] [P] Sends packets, `count` of them, whose rooms are taken from the pool. What comes back is how many left; rooms of the others remain the caller's. If one of them does not lie in its
 * room, or has a length that is not to be sent, none is sent, and -1 comes back. `bytes` are those of all packets. */
int32_t weir_dpdk_send(uint16_t port, uint16_t queue, struct weir_dpdk_pool *pool,
		       const struct weir_dpdk_packet *packets, uint16_t count,
		       const struct weir_dpdk_sending *how, uint64_t *bytes);
/* [Q] [P] The same by copies in DPDK's own memory: the rooms remain the caller's in any case. */
int32_t weir_dpdk_send_copies(uint16_t port, uint16_t queue, struct weir_dpdk_pool *pool,
			      struct weir_dpdk_bounce *bounce, const struct weir_dpdk_packet *packets,
			      uint16_t count, const struct weir_dpdk_sending *how, uint64_t *bytes);

#endif
