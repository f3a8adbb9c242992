// The library. Each function that allocates has a name that a report can show.
#include "concordance.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static void *allocated(void *chunk) {
    if (!chunk)
        abort();
    return chunk;
}

struct concordance *concordance_new(void) {
    return allocated(calloc(1, sizeof(struct concordance)));
}

__attribute__((noinline)) struct entry *entry_new(const char *word, struct entry *next) {
    struct entry *entry = allocated(malloc(sizeof *entry + strlen(word) + 1));
    *entry = (struct entry){.next = next};
    strcpy(entry->word, word);
    return entry;
}

__attribute__((noinline)) void entry_add(struct entry *entry, int number) {
    entry->count++;
    if (entry->lines && entry->lines->number == number)
        return;
    struct line *line = allocated(malloc(sizeof *line));
    *line = (struct line){entry->lines, number};
    entry->lines = line;
}

static struct entry *find(struct concordance *concordance, const char *word) {
    struct entry **place = &concordance->entries;
    while (*place && strcmp((*place)->word, word) < 0)
        place = &(*place)->next;
    if (!*place || strcmp((*place)->word, word))
        *place = entry_new(word, *place);
    return *place;
}

void concordance_read(struct concordance *concordance, FILE *text) {
    char word[64];
    size_t length = 0;
    concordance->lines++;
    for (int c; (c = getc(text)) != EOF;) {
        if (isalpha(c) && length < sizeof word - 1) {
            word[length++] = (char)tolower(c);
            continue;
        }
        if (length) {
            word[length] = 0;
            entry_add(find(concordance, word), concordance->lines);
            length = 0;
        }
        concordance->lines += c == '\n';
    }
}

void concordance_free(struct concordance *concordance) {
    while (concordance->entries) {
        struct entry *entry = concordance->entries;
        concordance->entries = entry->next;
        while (entry->lines) {
            struct line *line = entry->lines;
            entry->lines = line->next;
            free(line);
        }
        free(entry);
    }
    free(concordance);
}
