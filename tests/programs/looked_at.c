// What tests/tests/tools.rs and debugging.rs have debuggers, profilers and the like look at: named frames with
// line numbers, a call into a library, and something to wait for.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int library_answer(int number);

static void *volatile chunk;

__attribute__((noreturn)) static void show_maps(void) {
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        fputs(line, stdout);
    }
    exit(EXIT_SUCCESS);
}

__attribute__((noinline)) static unsigned spin(unsigned number) {
    volatile unsigned sum = number;
    for (unsigned step = 0; step < 100000000; step++) {
        sum += step;
    }
    return sum;
}

__attribute__((noinline)) static void deepest(const char *what) {
    if (strcmp(what, "maps") == 0) {
        show_maps();
    } else if (strcmp(what, "wait") == 0) {
        puts("ready");
        fflush(stdout);
        pause();
    } else if (strcmp(what, "spin") == 0) {
        printf("%u\n", spin(3));
    } else if (strcmp(what, "abort") == 0) {
        abort(); // here it ends
    }
}

int main(int argc, char **argv) {
    chunk = malloc(10007);
    if (argc > 1) {
        deepest(argv[1]); // from main
    }
    printf("%d\n", library_answer(2));
    free(chunk);
    return 0;
}
