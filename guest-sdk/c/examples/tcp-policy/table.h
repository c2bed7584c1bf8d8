/* A table of numbers by numbers, that grows. Keys are spread by whoever has them. */
#ifndef TABLE_H
#define TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One whose bytes are all 0 is empty. */
typedef struct table {
    struct entry {
        uint64_t key, value;
        bool taken;
    } *entries;
    /* A power of two, or 0. */
    size_t room;
    size_t count;
} table;

/* Where the value of this key is; NULL if it has none. Until the table is changed. */
uint64_t *table_find(const table *table, uint64_t key);
/* The same; with a value of 0 if it has none. NULL without memory. */
uint64_t *table_put(table *table, uint64_t key);
/* Takes a key out, if it is there. */
void table_remove(table *table, uint64_t key);

#endif
