// An obstack: words of a text grow one behind the other in chunks that it gets from malloc, and are freed as on a
// stack, one with all that came later. The program says so with the functions of `allocs.h`: without the runtime, to
// nobody; with it, an address inside of a word is known to be in that word, and not only in the obstack's chunk.
// -rdynamic: the functions that make words keep their names when the program is stripped.
//
//# flags: -rdynamic -fPIE -Wl,-z,dynamic-undefined-weak
//# answer: "fox" is 4 bytes of words, made in word_finish
//# answer: "jumps" is 6 bytes of words, made in word_copy
//# answer: "brown" is 6 bytes of words, made in word_finish
//# answer: "jumps" is in no word
//# answer: "dog" is 4 bytes of words, made in word_finish
//# answer: 5 words are alive, 24 bytes

#include "../runtime/include/allocs.h"

#include <ctype.h>
#include <obstack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define obstack_chunk_alloc malloc
#define obstack_chunk_free free

static struct obstack stack;
static const struct allocator *words;
static char *alive[100];
static int depth;

// A word that has grown, character by character. Where it lies is known when it is finished.
__attribute__((noinline)) char *word_finish(void) {
    obstack_1grow(&stack, '\0');
    size_t size = obstack_object_size(&stack);
    char *made = obstack_finish(&stack);
    if (alloc_announce)
        alloc_announce(words, made, size);
    return alive[depth++] = made;
}

__attribute__((noinline)) char *word_copy(const char *text) {
    size_t size = strlen(text) + 1;
    char *made = obstack_copy(&stack, text, size);
    if (alloc_announce)
        alloc_announce(words, made, size);
    return alive[depth++] = made;
}

// Frees a word, and all that are later.
static void words_free(char *first) {
    char *last;
    do {
        last = alive[--depth];
        if (alloc_retract)
            alloc_retract(words, last);
    } while (last != first);
    obstack_free(&stack, first);
}

static void words_read(const char *text) {
    for (; *text; text++) {
        if (isalpha((unsigned char)*text))
            obstack_1grow(&stack, *text);
        else if (obstack_object_size(&stack) > 0)
            word_finish();
    }
}

static void ask(const char *name, const char *inside) {
    struct alloc_info info;
    if (!alloc_get_info || alloc_get_info(inside, &info) != ALLOC_OK)
        return;
    if (info.allocator != words)
        printf("\"%s\" is in no word\n", name);
    else
        printf("\"%s\" is %zu bytes of %s, made in %s\n", (char *)info.base, info.size, info.allocator->name,
               info.site_place.symbol ? info.site_place.symbol : "none");
}

static int sum(const struct alloc_chunk *chunk, void *argument) {
    size_t *sums = argument;
    sums[0]++;
    sums[1] += chunk->size;
    return 0;
}

int main(void) {
    if (alloc_register_allocator)
        words = alloc_register_allocator("words");
    obstack_init(&stack);
    words_read("the quick brown fox ");
    char *jumps = word_copy("jumps");
    words_read("over the ");
    ask("fox", alive[3] + 2);
    ask("jumps", jumps + 3);

    words_free(jumps);
    ask("brown", alive[2] + 5);
    ask("jumps", jumps + 3);
    words_read("dog ");
    ask("dog", alive[4] + 1);
    if (alloc_walk) {
        size_t sums[2] = {0, 0};
        struct alloc_range range = {.allocator = words};
        alloc_walk(&range, sum, sums);
        printf("%zu words are alive, %zu bytes\n", sums[0], sums[1]);
    }
    for (int i = 0; i < depth; i++)
        printf("%s%c", alive[i], i + 1 < depth ? ' ' : '\n');
    words_free(alive[0]);
    obstack_free(&stack, NULL);
    return 0;
}
