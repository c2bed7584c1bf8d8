/* Packet functions the way of OpenNetVM (Zhang et al., HotMiddlebox 2016): a shared mempool, packets handed from function to
 * function as pointers on rings, bursts of 32. For comparison with Weir's chains: `scripts/bench onvm` compiles and runs it.
 *
 * Tuned in its favour where OpenNetVM leaves a choice: rings have one producer and one consumer, and a function hands a packet
 * to the next one by itself, without the manager between them.
 *
 *   onvm MODE FUNCTIONS WORK SECONDS RATE
 *
 * MODE   direct     one thread calls all functions on each burst (no rings: what the work itself costs)
 *        rings      one thread, a ring in front of each function and of the transmitter
 *        threads    a thread for the receiver, for each function, and for the transmitter
 *        processes  the same, the functions in processes of their own (secondary processes of DPDK)
 *        across     no functions and no device: the same pointers from a thread to another by one ring, each on a core
 * WORK   null, or macswap
 * RATE   packets a second at most, whose latency is measured; 0 for all there are
 *
 * Threads are spread over the cores that the process may use; one that finds its ring empty gives its core away if others are
 * on it. The device is net_null. The result is one line: packets, nanoseconds, nanoseconds of CPU time of all threads, and the
 * latency from receiver to transmitter in nanoseconds (median and 99th percentile).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_memzone.h>
#include <rte_ring.h>

#define BURST 32
#define FUNCTIONS_MAX 16
#define RING 1024
#define MBUFS 16383
#define SAMPLES (1 << 20)

typedef void (*work_function)(struct rte_mbuf **, unsigned int);

/* What all processes see. */
struct shared {
	atomic_bool go, stop;
	atomic_uint ready;
	atomic_ullong cpu;
	/* Several threads on each core. */
	bool crowded;
};

static struct shared *shared;
static struct rte_ring *rings[FUNCTIONS_MAX + 1];
static struct rte_mempool *pool;
static uint16_t ports[2];
static unsigned int functions;
static work_function work;
static uint64_t rate;
static uint64_t *samples;
static unsigned int sampled;
static uint64_t transmitted;

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static __attribute__((noinline)) void null_work(struct rte_mbuf **packets, unsigned int count)
{
	(void)packets;
	/* It must be called. */
	__asm__ volatile("" : : "r"(count) : "memory");
}

static __attribute__((noinline)) void macswap_work(struct rte_mbuf **packets, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		struct rte_ether_hdr *header = rte_pktmbuf_mtod(packets[i], struct rte_ether_hdr *);
		struct rte_ether_addr address = header->dst_addr;

		header->dst_addr = header->src_addr;
		header->src_addr = address;
	}
}

/* The receiver: a burst. At a given rate the first packet carries the time. */
static unsigned int receive(struct rte_mbuf **packets)
{
	static uint64_t due, step;
	unsigned int count;

	if (rate != 0) {
		uint64_t now = rte_rdtsc();

		if (step == 0) {
			step = rte_get_tsc_hz() * BURST / rate;
			due = now;
		}
		if (now < due)
			return 0;
		/* What was missed is not made up for. */
		due = RTE_MAX(due + step, now);
	}
	count = rte_eth_rx_burst(ports[0], 0, packets, BURST);
	if (rate != 0 && count > 0) {
		unsigned int i;

		*rte_pktmbuf_mtod_offset(packets[0], uint64_t *, 16) = rte_rdtsc();
		for (i = 1; i < count; i++)
			*rte_pktmbuf_mtod_offset(packets[i], uint64_t *, 16) = 0;
	}
	return count;
}

static void transmit(struct rte_mbuf **packets, unsigned int count)
{
	unsigned int i, sent;

	for (i = 0; rate != 0 && i < count; i++) {
		uint64_t stamp = *rte_pktmbuf_mtod_offset(packets[i], uint64_t *, 16);

		if (stamp != 0 && sampled < SAMPLES)
			samples[sampled++] = rte_rdtsc() - stamp;
	}
	sent = rte_eth_tx_burst(ports[1], 0, packets, (uint16_t)count);
	rte_pktmbuf_free_bulk(packets + sent, count - sent);
	transmitted += count;
}

/* Nothing to do. */
static inline void relax(void)
{
	if (shared->crowded)
		sched_yield();
	else
		rte_pause();
}

static inline void hand_over(struct rte_ring *ring, struct rte_mbuf **packets, unsigned int count)
{
	unsigned int done = 0;

	while (done < count) {
		done += rte_ring_sp_enqueue_burst(ring, (void **)packets + done, count - done, NULL);
		if (unlikely(done < count)) {
			if (atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
				rte_pktmbuf_free_bulk(packets + done, count - done);
				return;
			}
			relax();
		}
	}
}

static __thread bool registered;

static void account(void)
{
	atomic_fetch_add(&shared->cpu, nanoseconds(CLOCK_THREAD_CPUTIME_ID));
	if (registered)
		rte_thread_unregister();
}

static void wait_for_go(void)
{
	/* With a cache of the mempool's of its own, as threads of DPDK's have one. */
	registered = rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		usleep(100);
}

static bool stopped(void)
{
	return atomic_load_explicit(&shared->stop, memory_order_relaxed);
}

static void *receiver(void *argument)
{
	struct rte_mbuf *packets[BURST];

	(void)argument;
	wait_for_go();
	while (!stopped()) {
		unsigned int count = receive(packets);

		if (count > 0)
			hand_over(rings[0], packets, count);
		else
			relax();
	}
	account();
	return NULL;
}

static void *function(void *argument)
{
	unsigned int place = (unsigned int)(uintptr_t)argument;
	struct rte_mbuf *packets[BURST];

	wait_for_go();
	while (!stopped()) {
		unsigned int count = rte_ring_sc_dequeue_burst(rings[place], (void **)packets, BURST, NULL);

		if (count == 0) {
			relax();
			continue;
		}
		work(packets, count);
		hand_over(rings[place + 1], packets, count);
	}
	account();
	return NULL;
}

static void *transmitter(void *argument)
{
	struct rte_mbuf *packets[BURST];

	(void)argument;
	wait_for_go();
	while (!stopped()) {
		unsigned int count = rte_ring_sc_dequeue_burst(rings[functions], (void **)packets, BURST, NULL);

		if (count == 0)
			relax();
		else
			transmit(packets, count);
	}
	account();
	return NULL;
}

static int receiver_lcore(void *argument)
{
	receiver(argument);
	return 0;
}

static int transmitter_lcore(void *argument)
{
	transmitter(argument);
	return 0;
}

/* Everything on one core, with or without rings. */
static void *alone(void *with_rings)
{
	work_function volatile called = work;
	struct rte_mbuf *packets[BURST];

	wait_for_go();
	while (!stopped()) {
		unsigned int i, place, count = receive(packets);

		/* As long as the stop is not looked at too often. */
		for (i = 0; i < 64; i++) {
			if (with_rings == NULL) {
				for (place = 0; place < functions; place++)
					called(packets, count);
			} else {
				for (place = 0; place < functions; place++) {
					rte_ring_sp_enqueue_burst(rings[place], (void **)packets, count, NULL);
					count = rte_ring_sc_dequeue_burst(rings[place], (void **)packets, BURST, NULL);
					called(packets, count);
				}
				rte_ring_sp_enqueue_burst(rings[functions], (void **)packets, count, NULL);
				count = rte_ring_sc_dequeue_burst(rings[functions], (void **)packets, BURST, NULL);
			}
			if (count > 0)
				transmit(packets, count);
			count = receive(packets);
		}
		if (count > 0)
			transmit(packets, count);
	}
	account();
	return NULL;
}

/* From core to core. */
static void *giver(void *argument)
{
	struct rte_mbuf *packets[BURST] = {0};

	(void)argument;
	wait_for_go();
	while (!stopped()) {
		unsigned int done = 0;

		while (done < BURST && !stopped())
			done += rte_ring_sp_enqueue_burst(rings[0], (void **)packets + done, BURST - done, NULL);
	}
	account();
	return NULL;
}

static void *taker(void *argument)
{
	struct rte_mbuf *packets[BURST];

	(void)argument;
	wait_for_go();
	while (!stopped())
		transmitted += rte_ring_sc_dequeue_burst(rings[0], (void **)packets, BURST, NULL);
	account();
	return NULL;
}

static unsigned int cores[CPU_SETSIZE], cores_n;

static void find_cores(void)
{
	cpu_set_t set;
	unsigned int core;

	sched_getaffinity(0, sizeof(set), &set);
	for (core = 0; core < CPU_SETSIZE; core++) {
		if (CPU_ISSET(core, &set))
			cores[cores_n++] = core;
	}
}

static pthread_t start(void *(*run)(void *), void *argument, unsigned int place)
{
	pthread_t thread;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cores[place % cores_n], &set);
	pthread_create(&thread, NULL, run, argument);
	pthread_setaffinity_np(thread, sizeof(set), &set);
	return thread;
}

static void fail(const char *what)
{
	fprintf(stderr, "onvm: %s: %s\n", what, rte_strerror(rte_errno));
	exit(1);
}

static void set_up_port(uint16_t *port, const char *name)
{
	struct rte_eth_conf configuration = {0};

	if (rte_eth_dev_get_port_by_name(name, port) != 0 || rte_eth_dev_configure(*port, 1, 1, &configuration) != 0 ||
	    rte_eth_rx_queue_setup(*port, 0, 512, SOCKET_ID_ANY, NULL, pool) != 0 ||
	    rte_eth_tx_queue_setup(*port, 0, 512, SOCKET_ID_ANY, NULL) != 0 || rte_eth_dev_start(*port) != 0)
		fail(name);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static struct rte_ring *ring_named(unsigned int place, bool make)
{
	char name[32];
	struct rte_ring *ring;

	snprintf(name, sizeof(name), "ring%u", place);
	ring = make ? rte_ring_create(name, RING, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ) : rte_ring_lookup(name);
	if (ring == NULL)
		fail(name);
	return ring;
}

/* DPDK does not take foreign threads once there are several processes, so it gets its own: the main one, and in the first process
 * the receiver's and the transmitter's. */
static int initialise(const char *prefix, bool secondary, bool several, unsigned int place)
{
	char file[64], lcores[64], *arguments[16];
	int n = 0;

	snprintf(file, sizeof(file), "--file-prefix=%s", prefix);
	arguments[n++] = "onvm";
	arguments[n++] = "--no-pci";
	arguments[n++] = "--iova-mode=va";
	arguments[n++] = "--no-telemetry";
	arguments[n++] = "--log-level=4";
	if (several) {
		arguments[n++] = file;
		arguments[n++] = secondary ? "--proc-type=secondary" : "--proc-type=primary";
		if (secondary)
			snprintf(lcores, sizeof(lcores), "--lcores=3@%u", cores[place % cores_n]);
		else
			snprintf(lcores, sizeof(lcores), "--lcores=0@%u,1@%u,2@%u", cores[0], cores[0],
				 cores[(functions + 1) % cores_n]);
		arguments[n++] = lcores;
	} else {
		arguments[n++] = "--in-memory";
	}
	if (!secondary) {
		arguments[n++] = "--vdev=net_null0";
		arguments[n++] = "--vdev=net_null1";
	}
	arguments[n] = NULL;
	return rte_eal_init(n, arguments);
}

/* A process of one function. */
static int function_process(const char *prefix, unsigned int place)
{
	const struct rte_memzone *zone;

	if (initialise(prefix, true, true, place + 1) < 0)
		fail("rte_eal_init of a function");
	zone = rte_memzone_lookup("onvm");
	if (zone == NULL)
		fail("the shared memory");
	shared = zone->addr;
	rings[place] = ring_named(place, false);
	rings[place + 1] = ring_named(place + 1, false);
	function((void *)(uintptr_t)place);
	return 0;
}

int main(int count, char **words)
{
	const struct rte_memzone *zone;
	uint64_t began, elapsed;
	pthread_t threads[FUNCTIONS_MAX + 2];
	pid_t processes[FUNCTIONS_MAX];
	char prefix[32];
	unsigned int i, n = 0, children = 0, expected;
	double seconds, hertz;
	bool one, several;

	if (count < 6) {
		fprintf(stderr, "onvm MODE FUNCTIONS WORK SECONDS RATE\n");
		return 2;
	}
	find_cores();
	functions = RTE_MIN((unsigned int)atoi(words[2]), (unsigned int)FUNCTIONS_MAX);
	work = strcmp(words[3], "macswap") == 0 ? macswap_work : null_work;
	seconds = atof(words[4]);
	rate = strtoull(words[5], NULL, 10);
	if (strcmp(words[1], "function") == 0)
		return function_process(words[6], (unsigned int)atoi(words[7]));
	one = strcmp(words[1], "direct") == 0 || strcmp(words[1], "rings") == 0;
	several = strcmp(words[1], "processes") == 0;
	snprintf(prefix, sizeof(prefix), "onvm%d", getpid());
	if (initialise(prefix, false, several, 0) < 0)
		fail("rte_eal_init (huge pages? `sysctl vm.nr_hugepages=256`)");
	zone = rte_memzone_reserve("onvm", sizeof(*shared), SOCKET_ID_ANY, 0);
	pool = rte_pktmbuf_pool_create("pool", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	samples = calloc(SAMPLES, sizeof(*samples));
	if (zone == NULL || pool == NULL || samples == NULL)
		fail("memory");
	shared = zone->addr;
	memset(shared, 0, sizeof(*shared));
	shared->crowded = !one && functions + 2 > cores_n;
	for (i = 0; i <= functions; i++)
		rings[i] = ring_named(i, true);
	set_up_port(&ports[0], "net_null0");
	set_up_port(&ports[1], "net_null1");
	if (one) {
		/* On the last core: the first has the interrupts. */
		threads[n++] = start(alone, strcmp(words[1], "rings") == 0 ? words : NULL, cores_n - 1);
		expected = 1;
	} else if (strcmp(words[1], "across") == 0) {
		threads[n++] = start(giver, NULL, 0);
		threads[n++] = start(taker, NULL, 1);
		expected = 2;
	} else {
		if (several) {
			rte_eal_remote_launch(receiver_lcore, NULL, 1);
			rte_eal_remote_launch(transmitter_lcore, NULL, 2);
		} else {
			threads[n++] = start(receiver, NULL, 0);
			threads[n++] = start(transmitter, NULL, functions + 1);
		}
		expected = functions + 2;
		for (i = 0; i < functions; i++) {
			if (!several) {
				threads[n++] = start(function, (void *)(uintptr_t)i, i + 1);
				continue;
			}
			processes[children] = fork();
			if (processes[children] == 0) {
				char place[16];

				snprintf(place, sizeof(place), "%u", i);
				execl("/proc/self/exe", "onvm", "function", words[2], words[3], words[4], words[5], prefix, place,
				      (char *)NULL);
				_exit(127);
			}
			children++;
		}
	}
	for (i = 0; atomic_load(&shared->ready) < expected; i++) {
		usleep(1000);
		if (i > 20000) {
			for (n = 0; n < children; n++)
				kill(processes[n], SIGKILL);
			fail("not all functions have started");
		}
	}
	began = nanoseconds(CLOCK_MONOTONIC);
	atomic_store(&shared->go, true);
	usleep((useconds_t)(seconds * 1e6));
	atomic_store(&shared->stop, true);
	elapsed = nanoseconds(CLOCK_MONOTONIC) - began;
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	if (several)
		rte_eal_mp_wait_lcore();
	for (i = 0; i < children; i++)
		waitpid(processes[i], NULL, 0);
	qsort(samples, sampled, sizeof(*samples), by_size);
	hertz = (double)rte_get_tsc_hz() / 1e9;
	printf("%" PRIu64 " %" PRIu64 " %llu %.0f %.0f\n", transmitted, elapsed, (unsigned long long)atomic_load(&shared->cpu),
	       sampled > 0 ? (double)samples[sampled / 2] / hertz : 0.0,
	       sampled > 0 ? (double)samples[(uint64_t)sampled * 99 / 100] / hertz : 0.0);
	rte_eal_cleanup();
	return 0;
}
