// Counts the words of its arguments in a table that grows, and forgets to free what it has read.
//
// It shows what a report says: the sites are the lines of this program, not the libc functions that call
// malloc for it.
//
// args: samples/words.c samples/words.c

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct word {
    struct word *next;
    char *text;
    int count;
};

static struct word *table[256];

static char *read_all(const char *path) {
    FILE *file = fopen(path, "r");
    char *text = malloc(4096);
    size_t size = file ? fread(text, 1, 4095, file) : 0;
    text[size] = 0;
    if (file)
        fclose(file);
    return text;
}

static struct word *new_word(const char *text, struct word *next) {
    struct word *word = calloc(1, sizeof *word);
    word->text = strdup(text);
    word->next = next;
    return word;
}

static void count(char *text) {
    struct word **place = &table[(unsigned char)text[0]];
    struct word *word = *place;
    while (word && strcmp(word->text, text))
        word = word->next;
    if (!word)
        *place = word = new_word(text, *place);
    word->count++;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        for (char *word = strtok(read_all(argv[i]), " \n"); word; word = strtok(NULL, " \n"))
            count(word);
    int words = 0;
    for (int i = 0; i < 256; i++)
        for (struct word *word = table[i]; word; word = word->next)
            words += word->count;
    printf("%d words\n", words);
    return 0;
}
