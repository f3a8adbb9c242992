// Prints the concordance of a text on stdin, and asks the runtime who allocated what it is made of.
//
// The directory has one project for several build systems: a shared library and a program that needs it.
// Each builds the program, and rewrites it: the last line then has an answer.
#include "concordance.h"

#include <allocs.h>
#include <string.h>

struct tally {
    const char *function;
    int chunks;
};

// Counts the live chunks that `function` made.
static int count(const struct alloc_chunk *chunk, void *argument) {
    struct tally *tally = argument;
    struct alloc_place place;
    if (alloc_get_place(chunk->site, &place) == ALLOC_OK && place.symbol && !strcmp(place.symbol, tally->function))
        tally->chunks++;
    return 0;
}

static void print(const struct entry *entry) {
    printf("%s:", entry->word);
    int first = entry->lines->number;
    for (const struct line *line = entry->lines; line; line = line->next)
        first = line->number;
    printf(" %d times, lines %d to %d\n", entry->count, first, entry->lines->number);
}

int main(void) {
    struct concordance *concordance = concordance_new();
    concordance_read(concordance, stdin);
    for (const struct entry *entry = concordance->entries; entry; entry = entry->next)
        if (entry->count > 1)
            print(entry);
    if (alloc_walk) {
        struct tally entries = {"entry_new", 0}, lines = {"entry_add", 0};
        alloc_walk(NULL, count, &entries);
        alloc_walk(NULL, count, &lines);
        printf("%d chunks of entry_new, %d of entry_add\n", entries.chunks, lines.chunks);
    } else {
        printf("nobody knows who allocated\n");
    }
    concordance_free(concordance);
    return 0;
}
