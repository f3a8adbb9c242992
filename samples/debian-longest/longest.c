// Prints the longest line of its input. The Debian package around it has its programs rewritten while it is built:
// debian/control and debian/longest.allocs-rewrite are all that it takes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *line = NULL, *longest = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0) {
        if (longest && strlen(line) <= strlen(longest))
            continue;
        free(longest);
        longest = strdup(line);
    }
    if (longest)
        fputs(longest, stdout);
    free(longest);
    free(line);
    return 0;
}
