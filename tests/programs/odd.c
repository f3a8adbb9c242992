// What tests/tests/odd_layouts.rs changes after it was linked, or adds to.
#include <stdio.h>
#include <stdlib.h>

static const char *const names[] = {"one", "two"};
static int calls;

#ifdef LARGE_BSS
static char large[LARGE_BSS];
#endif

#ifdef ODD_NOTES
// In data that is written, among code, with an alignment of 8, and one that is not loaded.
#define NOTE(NAME, FLAGS, ALIGN)                                                                    \
    __asm__(".pushsection " NAME ",\"" FLAGS "\",@note\n.balign " ALIGN                             \
            "\n.long 4, 8, 77\n.asciz \"Odd\"\n.quad 7\n.popsection\n")
NOTE(".note.written", "aw", "4");
NOTE(".note.code", "ax", "4");
NOTE(".note.eight", "a", "8");
NOTE(".note.not_loaded", "", "4");
#endif

#ifdef PREINIT
// The one with a relocation against this file, the other with one against a library's symbol.
extern void tzset(void);
static void first(void) { calls += 100; }
__attribute__((section(".preinit_array"), used)) static void (*entries[])(void) = {
    first, tzset, first};
#endif

__attribute__((constructor)) static void begin(void) { calls++; }

int main(int argc, char **argv) {
    char *block = malloc(12345);
    snprintf(block, 12345, "%s %d", names[argc - 1], calls);
    puts(block);
#ifdef LARGE_BSS
    large[sizeof large - 1] = 1;
    printf("%d %d\n", large[sizeof large - 1], large[sizeof large / 2]);
#endif
    free(block);
    fflush(stdout);
    return argv[argc] ? 1 : 5;
}
