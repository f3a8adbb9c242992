// A program with a preinit array of its own. Entries run before every constructor, in order, each
// with argc, argv and envp; whoever puts an entry in front must keep all of that. The entries
// allocate, too: at that point libc is initialised, constructors are not.
//
// A preinit array is the executable's alone, so there is nothing to see in a library.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

enum { ENTRIES = 3 };

static char *notes[ENTRIES + 1];
static int used;

static void note(const char *who, int argc, char **argv, char **envp) {
    notes[used] = malloc(10009);
    snprintf(notes[used], 10009, "%s: %d arguments, the last %s, environment %s", who, argc,
             argv[argc] == NULL ? "is NULL" : "is not NULL", envp == environ ? "as is" : "differs");
    used++;
}

static void one(int argc, char **argv, char **envp) { note("one", argc, argv, envp); }
static void two(int argc, char **argv, char **envp) { note("two", argc, argv, envp); }
static void three(int argc, char **argv, char **envp) { note("three", argc, argv, envp); }

typedef void entry(int, char **, char **);
__attribute__((section(".preinit_array"), used)) static entry *const entries[ENTRIES] = {
    one, two, three};

__attribute__((constructor)) static void constructor(int argc, char **argv, char **envp) {
    note("constructor", argc, argv, envp);
}

int main(void) {
    for (int i = 0; i < used; i++) {
        printf("%s\n", notes[i]);
        free(notes[i]);
    }
    return used == ENTRIES + 1 ? 0 : 1;
}
