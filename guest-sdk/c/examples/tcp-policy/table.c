#include "table.h"

#include <stdlib.h>

/* The place of a key, or the free one where it would be. There is always a free one. */
static size_t place(const table *table, uint64_t key) {
    size_t at = (size_t)key & (table->room - 1);
    while (table->entries[at].taken && table->entries[at].key != key) at = (at + 1) & (table->room - 1);
    return at;
}

uint64_t *table_find(const table *table, uint64_t key) {
    if (table->count == 0) return NULL;
    struct entry *entry = &table->entries[place(table, key)];
    return entry->taken ? &entry->value : NULL;
}

static bool grow(table *of) {
    table larger = {NULL, of->room == 0 ? 64 : of->room * 2, of->count};
    larger.entries = calloc(larger.room, sizeof *larger.entries);
    if (larger.entries == NULL) return false;
    for (size_t i = 0; i < of->room; i++) {
        if (of->entries[i].taken) larger.entries[place(&larger, of->entries[i].key)] = of->entries[i];
    }
    free(of->entries);
    *of = larger;
    return true;
}

uint64_t *table_put(table *table, uint64_t key) {
    uint64_t *known = table_find(table, key);
    if (known != NULL) return known;
    if ((table->count + 1) * 2 > table->room && !grow(table)) return NULL;
    struct entry *entry = &table->entries[place(table, key)];
    *entry = (struct entry){key, 0, true};
    table->count++;
    return &entry->value;
}

void table_remove(table *table, uint64_t key) {
    if (table_find(table, key) == NULL) return;
    size_t mask = table->room - 1, hole = place(table, key);
    table->entries[hole].taken = false;
    table->count--;
    /* Those behind it move up, as far as where they belong allows. */
    for (size_t at = (hole + 1) & mask; table->entries[at].taken; at = (at + 1) & mask) {
        size_t home = (size_t)table->entries[at].key & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue;
        table->entries[hole] = table->entries[at];
        table->entries[at].taken = false;
        hole = at;
    }
}
