// A concordance: the words of a text, each with the lines that it is on.
#ifndef CONCORDANCE_H
#define CONCORDANCE_H

#include <stdio.h>

struct line {
    struct line *next;
    int number;
};

struct entry {
    struct entry *next;
    struct line *lines; // the last one first
    int count;
    char word[];
};

struct concordance {
    struct entry *entries; // in the order of the alphabet
    int lines;
};

struct concordance *concordance_new(void);
void concordance_read(struct concordance *concordance, FILE *text);
void concordance_free(struct concordance *concordance);

#endif
