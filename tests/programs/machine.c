// What a rewrite must not disturb: constructors in order, a preinit array of the program's own (-DPREINIT),
// thread-local data, a function from a library, and a program that looks for itself in its own tables, and there for
// what a debugger does: the loader's list of objects.

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

// Whether the list that an entry of .dynamic leads to begins with the program itself.
static int listed(const ElfW(Dyn) *entry, const ElfW(Dyn) *dynamic) {
    const struct r_debug *list = NULL;
    if (entry->d_tag == DT_DEBUG)
        list = (const struct r_debug *)entry->d_un.d_ptr;
#ifdef __mips__ // where .dynamic is read-only
    if (entry->d_tag == DT_MIPS_RLD_MAP)
        list = *(const struct r_debug **)entry->d_un.d_ptr;
    if (entry->d_tag == DT_MIPS_RLD_MAP_REL)
        list = *(const struct r_debug **)((const char *)entry + entry->d_un.d_val);
#endif
    return list != NULL && list->r_map->l_ld == dynamic;
}

static int count(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    int *found = data;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_name[0] == '\0' && info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
            const ElfW(Dyn) *dynamic = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
            int leads = 0; // MIPS may have two entries that do
            for (const ElfW(Dyn) *entry = dynamic; entry->d_tag != DT_NULL; entry++)
                leads |= listed(entry, dynamic);
            *found += 10 + leads;
        }
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
