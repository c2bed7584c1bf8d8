/* Limits for each network of clients: how many connections it has, and how many new ones a second. */
#ifndef LIMITS_H
#define LIMITS_H

#include "prefixes.h"
#include "table.h"

typedef struct limits {
    bool there;
    /* Leading bits of IPv4 and IPv6 addresses that make a network. */
    int64_t v4, v6;
    /* New connections a second and at once; 0: any. */
    int64_t per_second, burst;
    /* Connections at the same time; -1: any. */
    int64_t concurrent;
    prefixes exempt;
    int64_t max_networks;
    uint64_t seed;
    /* Token buckets in the state region: rows of eight keys and times. */
    uint64_t (*rows)[8][2];
    size_t row_count;
    /* Connections of each network that has some. */
    table open;
} limits;

/* Reads the table `limits`. */
bool limits_read(limits *limits, const weir_setup *setup, weir_json config, weir_error *error);
/* Counts a connection; false if there are too many of its network. `counted` becomes the network that has to be told to
 * `limits_ended`, or 0. */
bool limits_allow(limits *limits, const uint8_t client[16], uint64_t *counted);
/* A connection of this network has ended. */
void limits_ended(limits *limits, uint64_t network);

#endif
