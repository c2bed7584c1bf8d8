/* See shim.h. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_net.h>
#include <rte_pause.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or newer is needed"
#endif

/* Process-wide. */

static weir_dpdk_log log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t length)
{
	int level = rte_log_cur_msg_loglevel();

	(void)cookie;
	log_sink(level < 0 ? RTE_LOG_INFO : (uint32_t)level, text, length);
	return (ssize_t)length;
}

const char *weir_dpdk_version(void)
{
	return rte_version();
}

static const struct rte_mempool_ops pool_ops;

int weir_dpdk_init(int argc, char **argv, weir_dpdk_log sink)
{
	static const cookie_io_functions_t functions = {.write = log_write};
	FILE *stream;
	int result;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, 1024);
	rte_openlog_stream(stream);
	result = rte_mempool_register_ops(&pool_ops);
	if (result < 0)
		return result;
	if (rte_eal_init(argc, argv) < 0)
		return rte_errno != 0 ? -rte_errno : -EIO;
	return 0;
}

int weir_dpdk_thread_register(void)
{
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void weir_dpdk_thread_unregister(void)
{
	rte_thread_unregister();
}

/* Pools. */

/* Where a pool's rooms and their headers lie. */
struct places {
	uint8_t *window;
	/* The mbuf of room i is at headers + i * stride. */
	uint8_t *headers;
	uint32_t stride;
	uint32_t room_shift;
	uint32_t rooms_start;
	uint32_t rooms;
};

struct weir_dpdk_pool {
	struct rte_mempool *mempool;
	struct places at;
	uint32_t headroom;
	/* While the mempool is filled its objects are not rooms that somebody gives back. */
	bool filling;
	struct weir_dpdk_owner owner;
};

static inline struct rte_mbuf *mbuf_of(const struct places *at, uint32_t room)
{
	return (struct rte_mbuf *)(at->headers + (size_t)room * at->stride);
}

/* Of an offset below the first room this is more than there are rooms: all of them end below 2 GiB. */
static inline uint32_t room_at(const struct places *at, uint32_t offset)
{
	return (offset - at->rooms_start) >> at->room_shift;
}

/* Where its room begins, in the window. */
static inline uint32_t room_of(const struct places *at, const struct rte_mbuf *m)
{
	return (uint32_t)((uint8_t *)m->buf_addr - at->window);
}

static int pool_alloc(struct rte_mempool *mp)
{
	mp->pool_data = mp->pool_config;
	return 0;
}

static int pool_enqueue(struct rte_mempool *mp, void *const *objects, unsigned int n)
{
	struct weir_dpdk_pool *pool = mp->pool_data;
	uint32_t offsets[WEIR_DPDK_BURST];
	unsigned int i, some;

	if (unlikely(pool->filling))
		return 0;
	for (; n > 0; objects += some, n -= some) {
		some = RTE_MIN(n, (unsigned int)WEIR_DPDK_BURST);
		for (i = 0; i < some; i++)
			offsets[i] = room_of(&pool->at, objects[i]);
		pool->owner.give(pool->owner.context, offsets, some);
	}
	return 0;
}

static int pool_dequeue(struct rte_mempool *mp, void **objects, unsigned int n)
{
	struct weir_dpdk_pool *pool = mp->pool_data;
	uint32_t offsets[WEIR_DPDK_BURST];
	unsigned int i, some, got = 0;

	while (got < n) {
		some = RTE_MIN(n - got, (unsigned int)WEIR_DPDK_BURST);
		if (unlikely(!pool->owner.take(pool->owner.context, offsets, some))) {
			/* All or nothing. */
			pool_enqueue(mp, objects, got);
			return -ENOENT;
		}
		for (i = 0; i < some; i++)
			objects[got + i] = mbuf_of(&pool->at, room_at(&pool->at, offsets[i]));
		got += some;
	}
	return 0;
}

/* The owner counts its rooms; to DPDK the pool is never known to be full or empty. */
static unsigned int pool_count(const struct rte_mempool *mp)
{
	(void)mp;
	return 0;
}

static void pool_ops_free(struct rte_mempool *mp)
{
	(void)mp;
}

static const struct rte_mempool_ops pool_ops = {
	.name = "weir",
	.alloc = pool_alloc,
	.free = pool_ops_free,
	.enqueue = pool_enqueue,
	.dequeue = pool_dequeue,
	.get_count = pool_count,
};

static void free_headers(struct rte_mempool_memhdr *memory, void *start)
{
	(void)memory;
	rte_free(start);
}

struct initialised {
	struct weir_dpdk_pool *pool;
	bool as_expected;
};

static void init_header(struct rte_mempool *mp, void *context, void *object, unsigned int i)
{
	struct initialised *done = context;
	struct weir_dpdk_pool *pool = done->pool;
	struct rte_mbuf *m = object;
	uint32_t room_bytes = 1u << pool->at.room_shift;

	if (i == 0)
		pool->at.headers = object;
	if ((uint8_t *)object != pool->at.headers + (size_t)i * pool->at.stride)
		done->as_expected = false;
	memset(m, 0, sizeof(*m));
	m->buf_addr = pool->at.window + pool->at.rooms_start + ((size_t)i << pool->at.room_shift);
	rte_mbuf_iova_set(m, (rte_iova_t)(uintptr_t)m->buf_addr);
	m->buf_len = (uint16_t)RTE_MIN(room_bytes, (uint32_t)UINT16_MAX);
	m->data_off = (uint16_t)pool->headroom;
	m->pool = mp;
	m->nb_segs = 1;
	m->port = RTE_MBUF_PORT_INVALID;
	rte_mbuf_refcnt_set(m, 1);
}

int weir_dpdk_pool_new(void *window, uint32_t rooms_start, uint32_t rooms, uint32_t room_bytes, uint32_t headroom,
		       uint32_t cache, const struct weir_dpdk_owner *owner, struct weir_dpdk_pool **made)
{
	static unsigned int number;
	struct rte_pktmbuf_pool_private private = {0};
	struct rte_mempool_objsz sizes;
	struct initialised done;
	struct weir_dpdk_pool *pool;
	struct rte_mempool *mp;
	char name[RTE_MEMPOOL_NAMESIZE];
	unsigned int flags = RTE_MEMPOOL_F_NO_SPREAD | RTE_MEMPOOL_F_NO_IOVA_CONTIG;
	size_t bytes;
	void *chunk;
	int result;

	pool = rte_zmalloc("weir_pool", sizeof(*pool), RTE_CACHE_LINE_SIZE);
	if (pool == NULL)
		return -ENOMEM;
	pool->at.window = window;
	pool->at.rooms_start = rooms_start;
	pool->at.rooms = rooms;
	pool->at.room_shift = rte_bsf32(room_bytes);
	pool->headroom = headroom;
	pool->owner = *owner;
	pool->filling = true;
	snprintf(name, sizeof(name), "weir%u", __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED));
	mp = rte_mempool_create_empty(name, rooms, sizeof(struct rte_mbuf), cache, sizeof(private), SOCKET_ID_ANY,
				      flags);
	if (mp == NULL) {
		result = -rte_errno;
		rte_free(pool);
		return result;
	}
	pool->mempool = mp;
	private.mbuf_data_room_size = (uint16_t)RTE_MIN(room_bytes, (uint32_t)UINT16_MAX);
	rte_pktmbuf_pool_init(mp, &private);
	result = rte_mempool_set_ops_byname(mp, pool_ops.name, pool);
	if (result < 0)
		goto failed;
	pool->at.stride = rte_mempool_calc_obj_size(sizeof(struct rte_mbuf), flags, &sizes);
	bytes = (size_t)rooms * pool->at.stride + RTE_CACHE_LINE_SIZE;
	chunk = rte_malloc("weir_headers", bytes, RTE_CACHE_LINE_SIZE);
	if (chunk == NULL) {
		result = -ENOMEM;
		goto failed;
	}
	result = rte_mempool_populate_iova(mp, chunk, RTE_BAD_IOVA, bytes, free_headers, chunk);
	if (result < 0) {
		rte_free(chunk);
		goto failed;
	}
	done = (struct initialised){.pool = pool, .as_expected = (uint32_t)result == rooms};
	rte_mempool_obj_iter(mp, init_header, &done);
	if (!done.as_expected) {
		result = -EINVAL;
		goto failed;
	}
	pool->filling = false;
	*made = pool;
	return 0;
failed:
	rte_mempool_free(mp);
	rte_free(pool);
	return result;
}

void weir_dpdk_pool_flush(struct weir_dpdk_pool *pool)
{
	unsigned int lcore;

	if (pool->mempool->cache_size == 0)
		return;
	for (lcore = 0; lcore < RTE_MAX_LCORE; lcore++) {
		struct rte_mempool_cache *cache = rte_mempool_default_cache(pool->mempool, lcore);

		if (cache != NULL && cache->len > 0)
			rte_mempool_cache_flush(cache, pool->mempool);
	}
}

void weir_dpdk_pool_free(struct weir_dpdk_pool *pool)
{
	rte_mempool_free(pool->mempool);
	rte_free(pool);
}

struct weir_dpdk_bounce {
	struct rte_mempool *mempool;
};

int weir_dpdk_bounce_new(uint32_t buffers, uint32_t buffer_bytes, struct weir_dpdk_bounce **made)
{
	static unsigned int number;
	char name[RTE_MEMPOOL_NAMESIZE];
	struct weir_dpdk_bounce *bounce = rte_zmalloc("weir_bounce", sizeof(*bounce), RTE_CACHE_LINE_SIZE);
	struct rte_pktmbuf_pool_private private = {0};
	uint32_t room = RTE_MIN(buffer_bytes, (uint32_t)UINT16_MAX);
	int result;

	if (bounce == NULL)
		return -ENOMEM;
	snprintf(name, sizeof(name), "weir_bounce%u", __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED));
	/* Without gaps at the ends of pages: net_af_xdp takes for granted that there are none, and tells the kernel of a
	 * umem that is too short for the last buffers, which then swallow a packet each. */
	bounce->mempool = rte_mempool_create_empty(name, buffers, sizeof(struct rte_mbuf) + room, 64, sizeof(private),
						   SOCKET_ID_ANY, RTE_MEMPOOL_F_NO_IOVA_CONTIG | RTE_MEMPOOL_F_NO_SPREAD);
	if (bounce->mempool == NULL) {
		result = -rte_errno;
		rte_free(bounce);
		return result;
	}
	private.mbuf_data_room_size = (uint16_t)room;
	rte_pktmbuf_pool_init(bounce->mempool, &private);
	result = rte_mempool_set_ops_byname(bounce->mempool, rte_mbuf_best_mempool_ops(), NULL);
	if (result == 0)
		result = rte_mempool_populate_default(bounce->mempool);
	if (result < 0) {
		rte_mempool_free(bounce->mempool);
		rte_free(bounce);
		return result;
	}
	rte_mempool_obj_iter(bounce->mempool, rte_pktmbuf_init, NULL);
	*made = bounce;
	return 0;
}

void weir_dpdk_bounce_free(struct weir_dpdk_bounce *bounce)
{
	rte_mempool_free(bounce->mempool);
	rte_free(bounce);
}

/* Devices. */

int weir_dpdk_probe(const char *bus, const char *name, const char *arguments, uint16_t *port)
{
	int result = 0;

	/* A PCI device was probed by weir_dpdk_init. */
	if (rte_eth_dev_get_port_by_name(name, port) == 0)
		return 0;
	result = rte_eal_hotplug_add(bus, name, arguments);
	if (result < 0)
		return result;
	result = rte_eth_dev_get_port_by_name(name, port);
	if (result < 0)
		rte_eal_hotplug_remove(bus, name);
	return result;
}

int weir_dpdk_remove(const char *bus, const char *name, uint16_t port)
{
	uint16_t now;

	/* If it went away by itself the number may be another device's. */
	if (rte_eth_dev_get_port_by_name(name, &now) == 0 && now == port) {
		rte_eth_dev_stop(port);
		rte_eth_dev_close(port);
	}
	return rte_eal_hotplug_remove(bus, name);
}

static const uint64_t rx_checksums =
	RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t tx_checksums =
	RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t rss_of_flows = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
/* As host/dpdk/src/rss.rs has them. */
_Static_assert(RTE_ETH_RSS_IPV4 == 1 << 2 && RTE_ETH_RSS_NONFRAG_IPV4_OTHER == 1 << 7, "of IPv4");
_Static_assert(RTE_ETH_RSS_NONFRAG_IPV4_TCP == 1 << 4 && RTE_ETH_RSS_NONFRAG_IPV4_UDP == 1 << 5, "of its ports");
_Static_assert(RTE_ETH_RSS_IPV6 == RTE_ETH_RSS_IPV4 << 6 &&
	       RTE_ETH_RSS_NONFRAG_IPV6_TCP == RTE_ETH_RSS_NONFRAG_IPV4_TCP << 6 &&
	       RTE_ETH_RSS_NONFRAG_IPV6_UDP == RTE_ETH_RSS_NONFRAG_IPV4_UDP << 6 &&
	       RTE_ETH_RSS_NONFRAG_IPV6_OTHER == RTE_ETH_RSS_NONFRAG_IPV4_OTHER << 6, "of IPv6");

/* Bytes of the longest input of the Toeplitz hash (IPv6 addresses and ports), and the window behind it. */
#define RSS_KEY_MIN (2 * 16 + 2 * 2 + 4)
#define RSS_KEY_MAX 64

/* A key that repeats itself every 16 bits makes the Toeplitz hash symmetric: S. Woo, K. Park, "Scalable TCP Session
 * Monitoring with Symmetric Receive-side Scaling", 2012. */
static void symmetric_key(uint8_t *key, unsigned int length)
{
	unsigned int i;

	for (i = 0; i < length; i++)
		key[i] = i % 2 == 0 ? 0x6d : 0x5a;
}

/* Whether the device hashes flows with a key of ours. */
static bool takes_key(const struct rte_eth_dev_info *dev)
{
	return (dev->flow_type_rss_offloads & rss_of_flows) != 0 && dev->hash_key_size >= RSS_KEY_MIN &&
	       dev->hash_key_size <= RSS_KEY_MAX;
}

int weir_dpdk_info(uint16_t port, struct weir_dpdk_info *info)
{
	struct rte_eth_dev_info dev;
	struct rte_ether_addr mac;
	int result = rte_eth_dev_info_get(port, &dev);

	if (result < 0)
		return result;
	memset(info, 0, sizeof(*info));
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	snprintf(info->driver, sizeof(info->driver), "%s", dev.driver_name);
	info->rx_checksums = (dev.rx_offload_capa & rx_checksums) == rx_checksums;
	info->tx_checksums = (dev.tx_offload_capa & tx_checksums) == tx_checksums;
	info->rss_table = takes_key(&dev) ? dev.reta_size : 0;
	info->rss_fields = dev.flow_type_rss_offloads & rss_of_flows;
	info->min_rx_bytes = dev.min_rx_bufsize;
	info->max_rx_bytes = dev.max_rx_pktlen;
	info->min_mtu = dev.min_mtu;
	info->max_mtu = dev.max_mtu;
	info->max_rx_queues = dev.max_rx_queues;
	info->max_tx_queues = dev.max_tx_queues;
	info->rx_descriptors_min = dev.rx_desc_lim.nb_min;
	info->rx_descriptors_max = dev.rx_desc_lim.nb_max;
	info->rx_descriptors_align = dev.rx_desc_lim.nb_align;
	info->rx_descriptors_default = dev.default_rxportconf.ring_size;
	info->tx_descriptors_min = dev.tx_desc_lim.nb_min;
	info->tx_descriptors_max = dev.tx_desc_lim.nb_max;
	info->tx_descriptors_align = dev.tx_desc_lim.nb_align;
	info->tx_descriptors_default = dev.default_txportconf.ring_size;
	return 0;
}

int weir_dpdk_configure(uint16_t port, const struct weir_dpdk_setup *setup)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info dev;
	uint8_t key[RSS_KEY_MAX];
	int result = rte_eth_dev_info_get(port, &dev);

	if (result < 0)
		return result;
	conf.rxmode.mtu = setup->mtu;
	conf.intr_conf.rxq = setup->interrupts;
	/* All frames of a queue come from one pool, and each has one owner. */
	conf.txmode.offloads = dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	if (setup->checksums) {
		conf.rxmode.offloads |= dev.rx_offload_capa & rx_checksums;
		conf.txmode.offloads |= dev.tx_offload_capa & tx_checksums;
	}
	if (setup->queues > 1 && (dev.flow_type_rss_offloads & rss_of_flows) != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = dev.flow_type_rss_offloads & rss_of_flows;
		if (takes_key(&dev)) {
			symmetric_key(key, dev.hash_key_size);
			conf.rx_adv_conf.rss_conf.rss_key = key;
			conf.rx_adv_conf.rss_conf.rss_key_len = dev.hash_key_size;
		}
	}
	return rte_eth_dev_configure(port, setup->queues, setup->queues, &conf);
}

int weir_dpdk_spread(uint16_t port, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE] = {0};
	struct rte_eth_rss_conf conf = {0};
	struct rte_eth_dev_info dev;
	uint8_t wanted[RSS_KEY_MAX], key[RSS_KEY_MAX];
	unsigned int i;
	int result = rte_eth_dev_info_get(port, &dev);

	if (result < 0)
		return result;
	if (!takes_key(&dev) || dev.reta_size == 0 || dev.reta_size > RTE_ETH_RSS_RETA_SIZE_512)
		return -ENOTSUP;
	symmetric_key(wanted, dev.hash_key_size);
	conf.rss_key = key;
	conf.rss_key_len = dev.hash_key_size;
	result = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (result < 0)
		return result;
	if (memcmp(key, wanted, dev.hash_key_size) != 0)
		return -EINVAL;
	for (i = 0; i < dev.reta_size; i++) {
		table[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] = (uint16_t)(i % queues);
	}
	return rte_eth_dev_rss_reta_update(port, table, dev.reta_size);
}

int weir_dpdk_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int weir_dpdk_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct weir_dpdk_pool *pool,
		       struct weir_dpdk_bounce *bounce)
{
	struct rte_mempool *mp = bounce != NULL ? bounce->mempool : pool->mempool;

	return rte_eth_rx_queue_setup(port, queue, descriptors, SOCKET_ID_ANY, NULL, mp);
}

int weir_dpdk_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return rte_eth_tx_queue_setup(port, queue, descriptors, SOCKET_ID_ANY, NULL);
}

int weir_dpdk_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int weir_dpdk_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

bool weir_dpdk_scatters(uint16_t port, uint16_t queue)
{
	struct rte_eth_rxq_info info;

	return rte_eth_rx_queue_info_get(port, queue, &info) == 0 && info.scattered_rx;
}

static struct rte_device *device_of(uint16_t port)
{
	struct rte_eth_dev_info dev;

	return rte_eth_dev_info_get(port, &dev) == 0 ? dev.device : NULL;
}

int weir_dpdk_dma_map(uint16_t port, void *start, size_t bytes)
{
	struct rte_device *device = device_of(port);
	size_t page = 4096;
	int result;

	if (device == NULL)
		return -ENODEV;
	if (rte_eal_iova_mode() != RTE_IOVA_VA)
		return -ENOTSUP;
	if (rte_extmem_register(start, bytes, NULL, 0, page) < 0)
		return -rte_errno;
	if (rte_dev_dma_map(device, start, (uint64_t)(uintptr_t)start, bytes) == 0)
		return 0;
	result = -rte_errno;
	rte_extmem_unregister(start, bytes);
	return result;
}

int weir_dpdk_dma_unmap(uint16_t port, void *start, size_t bytes)
{
	struct rte_device *device = device_of(port);
	int result = -ENODEV;

	if (device != NULL)
		result = rte_dev_dma_unmap(device, start, (uint64_t)(uintptr_t)start, bytes) < 0 ? -rte_errno : 0;
	rte_extmem_unregister(start, bytes);
	return result;
}

int weir_dpdk_set_promiscuous(uint16_t port, bool on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int weir_dpdk_set_multicast(uint16_t port, bool on)
{
	return on ? rte_eth_allmulticast_enable(port) : rte_eth_allmulticast_disable(port);
}

bool weir_dpdk_is_promiscuous(uint16_t port)
{
	return rte_eth_promiscuous_get(port) == 1;
}

int weir_dpdk_set_mtu(uint16_t port, uint16_t mtu)
{
	return rte_eth_dev_set_mtu(port, mtu);
}

int weir_dpdk_mtu(uint16_t port, uint16_t *mtu)
{
	return rte_eth_dev_get_mtu(port, mtu);
}

int weir_dpdk_link(uint16_t port, struct weir_dpdk_link *link)
{
	struct rte_eth_link dev;
	int result = rte_eth_link_get_nowait(port, &dev);

	if (result < 0)
		return result;
	link->mbit = dev.link_speed;
	link->up = dev.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = dev.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

int weir_dpdk_stats(uint16_t port, struct weir_dpdk_stats *stats)
{
	struct rte_eth_stats dev;
	int result = rte_eth_stats_get(port, &dev);

	if (result < 0)
		return result;
	stats->rx_missed = dev.imissed;
	stats->rx_errors = dev.ierrors;
	stats->rx_no_buffer = dev.rx_nombuf;
	stats->tx_packets = dev.opackets;
	stats->tx_errors = dev.oerrors;
	return 0;
}

int weir_dpdk_xstats(uint16_t port, void *context, weir_dpdk_value each)
{
	struct rte_eth_xstat_name *names = NULL;
	struct rte_eth_xstat *values = NULL;
	int i, count, n;

	n = rte_eth_xstats_get_names(port, NULL, 0);
	if (n <= 0)
		return n;
	names = calloc((size_t)n, sizeof(*names));
	values = calloc((size_t)n, sizeof(*values));
	count = names == NULL || values == NULL ? -ENOMEM : rte_eth_xstats_get_names(port, names, (unsigned int)n);
	if (count == n)
		count = rte_eth_xstats_get(port, values, (unsigned int)n);
	for (i = 0; count == n && i < n; i++) {
		if (values[i].id < (uint64_t)n)
			each(context, names[values[i].id].name, values[i].value);
	}
	free(names);
	free(values);
	return count < 0 ? count : 0;
}

bool weir_dpdk_is_removed(uint16_t port)
{
	return rte_eth_dev_is_removed(port) == 1;
}

static int note_event(uint16_t port, enum rte_eth_event_type type, void *flag, void *value)
{
	uint8_t nothing = 0;

	(void)port;
	(void)value;
	if (type == RTE_ETH_EVENT_INTR_RMV || type == RTE_ETH_EVENT_DESTROY)
		__atomic_store_n((uint8_t *)flag, WEIR_DPDK_REMOVED, __ATOMIC_RELEASE);
	else
		__atomic_compare_exchange_n((uint8_t *)flag, &nothing, WEIR_DPDK_RESET, false, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED);
	return 0;
}

/* Of a virtual function's physical one when it is reset, and of a device that could not mend itself: it receives nothing any
 * more. */
static const enum rte_eth_event_type fates[] = {
	RTE_ETH_EVENT_INTR_RMV,
	RTE_ETH_EVENT_DESTROY,
	RTE_ETH_EVENT_INTR_RESET,
	RTE_ETH_EVENT_RECOVERY_FAILED,
};

/* The kernel wants a device back that user space has by vfio. */
static void note_request(const char *name, enum rte_dev_event_type event, void *flag)
{
	(void)name;
	if (event == RTE_DEV_EVENT_REMOVE)
		__atomic_store_n((uint8_t *)flag, WEIR_DPDK_REMOVED, __ATOMIC_RELEASE);
}

/* The name of a port's device, by which the bus tells of it; NULL if it has none. */
static const char *device_name(uint16_t port)
{
	struct rte_eth_dev_info info;

	if (rte_eth_dev_info_get(port, &info) < 0 || info.device == NULL)
		return NULL;
	return rte_dev_name(info.device);
}

int weir_dpdk_watch(uint16_t port, uint8_t *flag)
{
	const char *name = device_name(port);
	unsigned int i;
	int result = 0;

	for (i = 0; result == 0 && i < RTE_DIM(fates); i++)
		result = rte_eth_dev_callback_register(port, fates[i], note_event, flag);
	if (result == 0 && name != NULL)
		result = rte_dev_event_callback_register(name, note_request, flag);
	return result;
}

void weir_dpdk_unwatch(uint16_t port, uint8_t *flag)
{
	const char *name = device_name(port);
	unsigned int i;

	if (name != NULL)
		rte_dev_event_callback_unregister(name, note_request, flag);
	for (i = 0; i < RTE_DIM(fates); i++)
		rte_eth_dev_callback_unregister(port, fates[i], note_event, flag);
}

/* Receive interrupts. */

int weir_dpdk_interrupt_add(uint16_t port, uint16_t queue, int epoll)
{
	return rte_eth_dev_rx_intr_ctl_q(port, queue, epoll, RTE_INTR_EVENT_ADD, NULL);
}

int weir_dpdk_interrupt_remove(uint16_t port, uint16_t queue, int epoll)
{
	return rte_eth_dev_rx_intr_ctl_q(port, queue, epoll, RTE_INTR_EVENT_DEL, NULL);
}

int weir_dpdk_interrupt_on(uint16_t port, uint16_t queue)
{
	int result = rte_eth_dev_rx_intr_enable(port, queue);

	return result == -ENOTSUP ? 0 : result;
}

int weir_dpdk_interrupt_off(uint16_t port, uint16_t queue)
{
	int result = rte_eth_dev_rx_intr_disable(port, queue);

	return result == -ENOTSUP ? 0 : result;
}

int weir_dpdk_interrupts_clear(int epoll)
{
	struct rte_epoll_event events[16];

	return rte_epoll_wait(epoll, events, RTE_DIM(events), 0);
}

/* Rules of the device's own. */

/* A rule's items: what each is to be, and which of its bits count. */
struct pattern {
	struct rte_flow_item items[5];
	struct rte_flow_item_eth eth[2];
	struct rte_flow_item_vlan vlan[2];
	struct rte_flow_item_ipv4 ipv4[2];
	struct rte_flow_item_ipv6 ipv6[2];
	union {
		struct rte_flow_item_tcp tcp;
		struct rte_flow_item_udp udp;
		struct rte_flow_item_sctp sctp;
	} transport[2];
	unsigned int count;
};

/* An item that compares nothing has no spec: some drivers refuse one that is all zero. */
static void add_item(struct pattern *p, enum rte_flow_item_type type, const void *spec, const void *mask, bool compares)
{
	p->items[p->count++] = (struct rte_flow_item){
		.type = type,
		.spec = compares ? spec : NULL,
		.mask = compares ? mask : NULL,
	};
}

static void add_ethernet(struct pattern *p, const struct weir_dpdk_match *m)
{
	bool ip = m->has_ethertype && (m->ethertype == RTE_ETHER_TYPE_IPV4 || m->ethertype == RTE_ETHER_TYPE_IPV6);
	bool type = m->has_ethertype && !ip;

	if (m->has_destination_mac) {
		memcpy(&p->eth[0].hdr.dst_addr, m->destination_mac, sizeof(m->destination_mac));
		memset(&p->eth[1].hdr.dst_addr, 0xff, sizeof(m->destination_mac));
	}
	if (m->has_source_mac) {
		memcpy(&p->eth[0].hdr.src_addr, m->source_mac, sizeof(m->source_mac));
		memset(&p->eth[1].hdr.src_addr, 0xff, sizeof(m->source_mac));
	}
	if (type && !m->has_vlan) {
		p->eth[0].hdr.ether_type = rte_cpu_to_be_16(m->ethertype);
		p->eth[1].hdr.ether_type = 0xffff;
	}
	add_item(p, RTE_FLOW_ITEM_TYPE_ETH, &p->eth[0], &p->eth[1],
		 m->has_destination_mac || m->has_source_mac || (type && !m->has_vlan));
	if (!m->has_vlan)
		return;
	p->vlan[0].hdr.vlan_tci = rte_cpu_to_be_16(m->vlan);
	p->vlan[1].hdr.vlan_tci = rte_cpu_to_be_16(0x0fff);
	if (type) {
		p->vlan[0].hdr.eth_proto = rte_cpu_to_be_16(m->ethertype);
		p->vlan[1].hdr.eth_proto = 0xffff;
	}
	add_item(p, RTE_FLOW_ITEM_TYPE_VLAN, &p->vlan[0], &p->vlan[1], true);
}

static bool any_bit(const uint8_t *bytes, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (bytes[i] != 0)
			return true;
	return false;
}

static void add_ipv4(struct pattern *p, const struct weir_dpdk_match *m)
{
	struct rte_ipv4_hdr *spec = &p->ipv4[0].hdr, *mask = &p->ipv4[1].hdr;

	memcpy(&spec->src_addr, m->source + 12, sizeof(spec->src_addr));
	memcpy(&mask->src_addr, m->source_mask + 12, sizeof(mask->src_addr));
	memcpy(&spec->dst_addr, m->destination + 12, sizeof(spec->dst_addr));
	memcpy(&mask->dst_addr, m->destination_mask + 12, sizeof(mask->dst_addr));
	if (m->has_protocol) {
		spec->next_proto_id = m->protocol;
		mask->next_proto_id = 0xff;
	}
	if (m->has_dscp) {
		spec->type_of_service = m->dscp << 2;
		mask->type_of_service = 0xfc;
	}
	if (m->no_fragment)
		/* More to come, and where it lies. */
		mask->fragment_offset = rte_cpu_to_be_16(0x3fff);
	add_item(p, RTE_FLOW_ITEM_TYPE_IPV4, &p->ipv4[0], &p->ipv4[1],
		 mask->src_addr != 0 || mask->dst_addr != 0 || m->has_protocol || m->has_dscp || m->no_fragment);
}

static void add_ipv6(struct pattern *p, const struct weir_dpdk_match *m)
{
	struct rte_ipv6_hdr *spec = &p->ipv6[0].hdr, *mask = &p->ipv6[1].hdr;

	memcpy(&spec->src_addr, m->source, sizeof(m->source));
	memcpy(&mask->src_addr, m->source_mask, sizeof(m->source_mask));
	memcpy(&spec->dst_addr, m->destination, sizeof(m->destination));
	memcpy(&mask->dst_addr, m->destination_mask, sizeof(m->destination_mask));
	if (m->has_protocol) {
		spec->proto = m->protocol;
		mask->proto = 0xff;
	}
	if (m->has_dscp) {
		/* The traffic class lies behind the version's four bits. */
		spec->vtc_flow = rte_cpu_to_be_32((uint32_t)m->dscp << 22);
		mask->vtc_flow = rte_cpu_to_be_32(0x3fU << 22);
	}
	if (m->no_fragment)
		p->ipv6[1].has_frag_ext = 1;
	add_item(p, RTE_FLOW_ITEM_TYPE_IPV6, &p->ipv6[0], &p->ipv6[1],
		 any_bit(m->source_mask, 16) || any_bit(m->destination_mask, 16) || m->has_protocol || m->has_dscp ||
			 m->no_fragment);
}

static int add_transport(struct pattern *p, const struct weir_dpdk_match *m)
{
	/* All three begin with the ports. */
	rte_be16_t spec[2] = {rte_cpu_to_be_16(m->source_port), rte_cpu_to_be_16(m->destination_port)};
	rte_be16_t mask[2] = {rte_cpu_to_be_16(m->source_port_mask), rte_cpu_to_be_16(m->destination_port_mask)};
	enum rte_flow_item_type type;

	switch (m->protocol) {
	case IPPROTO_TCP:
		type = RTE_FLOW_ITEM_TYPE_TCP;
		break;
	case IPPROTO_UDP:
		type = RTE_FLOW_ITEM_TYPE_UDP;
		break;
	case IPPROTO_SCTP:
		type = RTE_FLOW_ITEM_TYPE_SCTP;
		break;
	default:
		return -ENOTSUP;
	}
	memcpy(&p->transport[0], spec, sizeof(spec));
	memcpy(&p->transport[1], mask, sizeof(mask));
	add_item(p, type, &p->transport[0], &p->transport[1], true);
	return 0;
}

int weir_dpdk_flow_drop(uint16_t port, const struct weir_dpdk_match *m, bool count, struct weir_dpdk_flow **made,
			char *message, size_t bytes)
{
	static const struct rte_flow_attr attributes = {.ingress = 1};
	static const struct rte_flow_action_count counter;
	struct rte_flow_action actions[3];
	struct rte_flow_error error = {0};
	struct rte_flow *flow;
	struct pattern p;
	unsigned int n = 0;

	message[0] = 0;
	memset(&p, 0, sizeof(p));
	add_ethernet(&p, m);
	if (m->has_ethertype && m->ethertype == RTE_ETHER_TYPE_IPV4)
		add_ipv4(&p, m);
	else if (m->has_ethertype && m->ethertype == RTE_ETHER_TYPE_IPV6)
		add_ipv6(&p, m);
	if ((m->source_port_mask != 0 || m->destination_port_mask != 0) && add_transport(&p, m) < 0) {
		snprintf(message, bytes, "DPDK compares ports of tcp, udp and sctp only");
		return -ENOTSUP;
	}
	add_item(&p, RTE_FLOW_ITEM_TYPE_END, NULL, NULL, false);
	if (count)
		actions[n++] = (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &counter};
	actions[n++] = (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_DROP};
	actions[n] = (struct rte_flow_action){.type = RTE_FLOW_ACTION_TYPE_END};
	flow = rte_flow_create(port, &attributes, p.items, actions, &error);
	if (flow == NULL) {
		if (error.message != NULL)
			snprintf(message, bytes, "%s", error.message);
		return rte_errno != 0 ? -rte_errno : -EIO;
	}
	*made = (struct weir_dpdk_flow *)flow;
	return 0;
}

int weir_dpdk_flow_remove(uint16_t port, struct weir_dpdk_flow *flow)
{
	struct rte_flow_error error;

	return rte_flow_destroy(port, (struct rte_flow *)flow, &error);
}

int weir_dpdk_flow_packets(uint16_t port, struct weir_dpdk_flow *flow, uint64_t *packets)
{
	static const struct rte_flow_action counter[2] = {
		{.type = RTE_FLOW_ACTION_TYPE_COUNT},
		{.type = RTE_FLOW_ACTION_TYPE_END},
	};
	struct rte_flow_query_count query = {0};
	struct rte_flow_error error;
	int result = rte_flow_query(port, (struct rte_flow *)flow, counter, &query, &error);

	if (result < 0)
		return result;
	if (!query.hits_set)
		return -ENOTSUP;
	*packets = query.hits;
	return 0;
}

/* The hot path. */

/* Copies a frame that does not lie in one room of the pool into one, and frees it. NULL: it was counted. */
static __attribute__((noinline, cold)) struct rte_mbuf *adopt(struct weir_dpdk_pool *pool, struct rte_mbuf *frame,
							      struct weir_dpdk_said *said)
{
	struct rte_mbuf *copy = NULL;
	uint32_t length = frame->pkt_len;
	uint32_t space = (1u << pool->at.room_shift) - pool->headroom;
	const void *bytes;

	if (length > RTE_MIN(space, UINT16_MAX - pool->headroom)) {
		said->too_large++;
	} else {
		copy = rte_pktmbuf_alloc(pool->mempool);
		if (copy == NULL) {
			said->no_room++;
		} else {
			copy->data_off = (uint16_t)pool->headroom;
			copy->data_len = (uint16_t)length;
			copy->pkt_len = length;
			bytes = rte_pktmbuf_read(frame, 0, length, rte_pktmbuf_mtod(copy, void *));
			if (bytes != rte_pktmbuf_mtod(copy, void *))
				memcpy(rte_pktmbuf_mtod(copy, void *), bytes, length);
		}
	}
	rte_pktmbuf_free(frame);
	return copy;
}

/* As words, because they are read as words soon, and no processor forwards two stores to one load. */
static inline void put_packet(struct weir_dpdk_packet *packet, const struct places *at, const struct rte_mbuf *m,
			      uint64_t metadata, uint64_t time)
{
	uint32_t start = room_of(at, m);
	uint64_t words[4] = {(uint64_t)m->data_len << 32 | (start + m->data_off), metadata, time, room_at(at, start)};

	_Static_assert(sizeof(*packet) == sizeof(words), "a packet is four words, little-endian");
	memcpy(packet, words, sizeof(words));
}

/* What of a frame has checksums that a device fills in: IPv4 and IPv6 without extension headers, TCP and UDP. */
static uint32_t find_checksums(const struct rte_mbuf *m, struct rte_net_hdr_lens *lengths)
{
	uint32_t type = rte_net_get_ptype(m, lengths, RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK | RTE_PTYPE_L4_MASK);

	return RTE_ETH_IS_IPV4_HDR(type) || (type & RTE_PTYPE_L3_MASK) == RTE_PTYPE_L3_IPV6 ? type : 0;
}

/* Whether those of a frame that lies in one piece are right: what the device did not verify is not filled in by another
 * one unseen. */
static __attribute__((noinline)) bool is_right(const struct rte_mbuf *m)
{
	struct rte_net_hdr_lens lengths;
	uint32_t type = find_checksums(m, &lengths);
	uint32_t transport = type & RTE_PTYPE_L4_MASK;
	uint16_t start = lengths.l2_len + lengths.l3_len;
	const void *ip;

	if (type == 0 || start > m->data_len)
		return true;
	ip = rte_pktmbuf_mtod_offset(m, const void *, lengths.l2_len);
	if (RTE_ETH_IS_IPV4_HDR(type) && rte_raw_cksum(ip, lengths.l3_len) != 0xffff)
		return false;
	if (transport == RTE_PTYPE_L4_UDP) {
		/* None, which stays so on its way. */
		if (rte_pktmbuf_mtod_offset(m, const struct rte_udp_hdr *, start)->dgram_cksum == 0)
			return true;
	} else if (transport != RTE_PTYPE_L4_TCP) {
		return true;
	}
	return RTE_ETH_IS_IPV4_HDR(type) ? rte_ipv4_udptcp_cksum_mbuf_verify(m, ip, start) == 0
					 : rte_ipv6_udptcp_cksum_mbuf_verify(m, ip, start) == 0;
}

/* The frames of a burst one by one: some do not lie in one room of the pool, or have a checksum that may be wrong. */
static __attribute__((noinline)) uint16_t sort_out(struct weir_dpdk_pool *pool, struct rte_mbuf **frames, uint16_t n,
						   uint64_t metadata, uint64_t time, bool verify,
						   struct weir_dpdk_packet *packets,
						   struct weir_dpdk_said *said)
{
	uint16_t i, out = 0;

	for (i = 0; i < n; i++) {
		struct rte_mbuf *m = frames[i];
		uint64_t network = m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
		uint64_t transport = m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
		bool bad = network == RTE_MBUF_F_RX_IP_CKSUM_BAD || transport == RTE_MBUF_F_RX_L4_CKSUM_BAD;

		if (m->nb_segs != 1 || m->pool != pool->mempool) {
			m = adopt(pool, m, said);
			if (m == NULL)
				continue;
		}
		if (verify && transport == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN)
			bad = bad || !is_right(m);
		said->bad_checksum += bad;
		if (bad && verify) {
			rte_pktmbuf_free(m);
			continue;
		}
		said->bytes += m->data_len;
		put_packet(&packets[out++], &pool->at, m, metadata, time);
	}
	return out;
}

uint16_t weir_dpdk_receive(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t max)
{
	return rte_eth_rx_burst(port, queue, frames, max);
}

uint16_t weir_dpdk_take(struct weir_dpdk_pool *pool, struct rte_mbuf **frames, uint16_t count, uint64_t metadata,
			uint64_t time, bool verify, struct weir_dpdk_packet *packets, struct weir_dpdk_said *said)
{
	const uint64_t bad = RTE_MBUF_F_RX_IP_CKSUM_BAD | RTE_MBUF_F_RX_L4_CKSUM_BAD;
	/* Locals: what is written to packets could be the pool's, for all the compiler knows. */
	const struct rte_mempool *mempool = pool->mempool;
	const struct places at = pool->at;
	uint64_t strange = 0, bytes = 0;
	uint16_t i;

	for (i = 0; i < count; i++) {
		const struct rte_mbuf *m = frames[i];

		strange |= (m->ol_flags & bad) | (m->nb_segs ^ 1) | ((uintptr_t)m->pool ^ (uintptr_t)mempool);
		strange |= verify && (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN;
		bytes += m->data_len;
		put_packet(&packets[i], &at, m, metadata, time);
	}
	if (unlikely(strange != 0))
		return sort_out(pool, frames, count, metadata, time, verify, packets, said);
	said->bytes = bytes;
	return count;
}

/* Whether this is a UDP datagram over IPv4 without a checksum. It stays so: with one that is filled in it would be right whatever has
 * happened to it. */
static bool has_none(const struct rte_mbuf *m, const struct rte_net_hdr_lens *lengths, uint32_t type)
{
	uint16_t start = lengths->l2_len + lengths->l3_len;

	return RTE_ETH_IS_IPV4_HDR(type) && start + sizeof(struct rte_udp_hdr) <= m->data_len &&
	       rte_pktmbuf_mtod_offset(m, const struct rte_udp_hdr *, start)->dgram_cksum == 0;
}

/* Where the IP packet of a frame ends, by its own length. */
static uint32_t end_of_packet(const struct rte_mbuf *m, const struct rte_net_hdr_lens *lengths, uint32_t type)
{
	const void *ip = rte_pktmbuf_mtod_offset(m, const void *, lengths->l2_len);

	if (RTE_ETH_IS_IPV4_HDR(type))
		return lengths->l2_len + rte_be_to_cpu_16(((const struct rte_ipv4_hdr *)ip)->total_length);
	return lengths->l2_len + sizeof(struct rte_ipv6_hdr) +
	       rte_be_to_cpu_16(((const struct rte_ipv6_hdr *)ip)->payload_len);
}

/* Whether there is something else than zeros behind that: padding that a network card took from where it lay, or a trailer.
 * Drivers sum up to the end of the frame. */
static bool has_trailer(const struct rte_mbuf *m, uint32_t end)
{
	const uint8_t *bytes = rte_pktmbuf_mtod(m, const uint8_t *);

	for (; end < m->data_len; end++)
		if (bytes[end] != 0)
			return true;
	return false;
}

/* Fills in the checksum of a frame that no device can; `place` is where in the frame it lies. */
static __attribute__((noinline)) void fill_in(struct rte_mbuf *m, const struct rte_net_hdr_lens *lengths, uint32_t type,
					      uint32_t place)
{
	const void *ip = rte_pktmbuf_mtod_offset(m, const void *, lengths->l2_len);
	const void *transport = rte_pktmbuf_mtod_offset(m, const void *, lengths->l2_len + lengths->l3_len);
	void *to = rte_pktmbuf_mtod_offset(m, void *, place);
	uint16_t sum = 0;

	memcpy(to, &sum, sizeof(sum));
	sum = RTE_ETH_IS_IPV4_HDR(type) ? rte_ipv4_udptcp_cksum(ip, transport) : rte_ipv6_udptcp_cksum(ip, transport);
	memcpy(to, &sum, sizeof(sum));
}

/* Asks the device to fill in the checksums of a frame that it can; others stay as they are. */
static void ask_for_checksums(struct rte_mbuf *m)
{
	struct rte_net_hdr_lens lengths;
	uint32_t type = find_checksums(m, &lengths);
	uint32_t transport = type & RTE_PTYPE_L4_MASK;
	uint32_t start, end, header;

	if (type == 0)
		return;
	if (transport == RTE_PTYPE_L4_UDP && has_none(m, &lengths, type))
		transport = 0;
	start = lengths.l2_len + lengths.l3_len;
	end = end_of_packet(m, &lengths, type);
	header = transport == RTE_PTYPE_L4_TCP ? sizeof(struct rte_tcp_hdr) : sizeof(struct rte_udp_hdr);
	if (unlikely(end < m->data_len && end >= start + header && has_trailer(m, end))) {
		if (transport == RTE_PTYPE_L4_TCP)
			fill_in(m, &lengths, type, start + offsetof(struct rte_tcp_hdr, cksum));
		else if (transport == RTE_PTYPE_L4_UDP)
			fill_in(m, &lengths, type, start + offsetof(struct rte_udp_hdr, dgram_cksum));
		transport = 0;
	}
	m->l2_len = lengths.l2_len;
	m->l3_len = lengths.l3_len;
	m->l4_len = lengths.l4_len;
	if (RTE_ETH_IS_IPV4_HDR(type))
		m->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM;
	else
		m->ol_flags |= RTE_MBUF_F_TX_IPV6;
	if (transport == RTE_PTYPE_L4_TCP) {
		m->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM;
	} else if (transport == RTE_PTYPE_L4_UDP) {
		m->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM;
	}
}

/* Has the driver make frames ready whose checksums the device is to fill in: only it knows what has to be in those fields before. A frame
 * that it cannot have leaves as it is. */
static inline void prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	uint16_t done = 0;

	while ((done += rte_eth_tx_prepare(port, queue, mbufs + done, count - done)) < count)
		mbufs[done++]->ol_flags = 0;
}

static inline uint16_t transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count,
				uint32_t retries)
{
	uint16_t some, sent = rte_eth_tx_burst(port, queue, mbufs, count);

	while (unlikely(sent < count) && retries > 0) {
		some = rte_eth_tx_burst(port, queue, mbufs + sent, count - sent);
		sent += some;
		if (some == 0) {
			retries--;
			rte_pause();
		}
	}
	return sent;
}

/* Whether it lies in its room, which is one of the pool's, and may be sent. */
static inline bool is_fit(const struct places *at, const struct weir_dpdk_packet *packet,
			  const struct weir_dpdk_sending *how)
{
	uint32_t room_bytes = 1u << at->room_shift;

	return room_at(at, packet->offset) == packet->room && packet->room < at->rooms && packet->length >= how->shortest &&
	       packet->length <= how->longest &&
	       packet->length <= room_bytes - (packet->offset & (room_bytes - 1));
}

int32_t weir_dpdk_send(uint16_t port, uint16_t queue, struct weir_dpdk_pool *pool,
		       const struct weir_dpdk_packet *packets, uint16_t count,
		       const struct weir_dpdk_sending *how, uint64_t *bytes)
{
	struct rte_mbuf *mbufs[WEIR_DPDK_BURST];
	/* Locals: what is written to headers could be theirs, for all the compiler knows. */
	const struct places at = pool->at;
	const struct weir_dpdk_sending sending = *how;
	uint64_t sum = 0;
	uint16_t i;

	for (i = 0; i < count; i++) {
		const struct weir_dpdk_packet *packet = &packets[i];
		struct rte_mbuf *m;

		if (unlikely(!is_fit(&at, packet, &sending)))
			return -1;
		/* The rest of a header of the pool is as init_header left it, between any two calls. */
		m = mbuf_of(&at, packet->room);
		m->data_off = (uint16_t)(packet->offset & ((1u << at.room_shift) - 1));
		m->data_len = (uint16_t)packet->length;
		m->pkt_len = packet->length;
		m->ol_flags = 0;
		mbufs[i] = m;
		sum += packet->length;
		if (sending.checksums)
			ask_for_checksums(m);
	}
	*bytes = sum;
	if (sending.checksums)
		prepare(port, queue, mbufs, count);
	return transmit(port, queue, mbufs, count, sending.retries);
}

void weir_dpdk_take_back(uint16_t port, uint16_t queue)
{
	/* Not every driver can. */
	rte_eth_tx_done_cleanup(port, queue, 0);
}

int32_t weir_dpdk_send_copies(uint16_t port, uint16_t queue, struct weir_dpdk_pool *pool,
			      struct weir_dpdk_bounce *bounce, const struct weir_dpdk_packet *packets,
			      uint16_t count, const struct weir_dpdk_sending *how, uint64_t *bytes)
{
	struct rte_mbuf *mbufs[WEIR_DPDK_BURST];
	uint16_t i, sent, made = 0;

	*bytes = 0;
	for (i = 0; i < count; i++) {
		if (!is_fit(&pool->at, &packets[i], how))
			return -1;
		*bytes += packets[i].length;
	}
	for (i = 0; i < count; i++) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(bounce->mempool);
		char *to = m == NULL ? NULL : rte_pktmbuf_append(m, (uint16_t)packets[i].length);

		if (to == NULL) {
			rte_pktmbuf_free(m);
			break;
		}
		memcpy(to, pool->at.window + packets[i].offset, packets[i].length);
		if (how->checksums)
			ask_for_checksums(m);
		mbufs[made++] = m;
	}
	if (how->checksums)
		prepare(port, queue, mbufs, made);
	sent = transmit(port, queue, mbufs, made, how->retries);
	if (sent < made)
		rte_pktmbuf_free_bulk(mbufs + sent, made - sent);
	return sent;
}
