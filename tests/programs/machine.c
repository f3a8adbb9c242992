// What a rewrite must not disturb: constructors in order, a preinit array of the program's own (-DPREINIT),
// thread-local data, a function from a library, and a program that looks for itself in its own tables.

#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int library_number;
int library_call(int number);

static __thread int own = 5;
static char *early;

#ifdef PREINIT
static void first(int argc, char **argv, char **envp) { own += argc + (argv[argc] == NULL) + (envp != NULL); }
__attribute__((section(".preinit_array"), used)) static void (*preinit)(int, char **, char **) = first;
#endif

__attribute__((constructor)) static void construct(void) {
    early = malloc(100);
    strcpy(early, "constructor");
}

static int count(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    int *dynamic = data;
    if (info->dlpi_name[0] == '\0')
        for (int i = 0; i < info->dlpi_phnum; i++)
            *dynamic += info->dlpi_phdr[i].p_type == PT_DYNAMIC;
    return 0;
}

int main(int argc, char **argv) {
    int dynamic = 0;
    dl_iterate_phdr(count, &dynamic);
    printf("%s %d %d %d %s\n", early, own, library_call(library_number), dynamic, argc > 1 ? argv[1] : "");
    free(early);
    errno = 0;
    return 40 + argc;
}
