// An IFUNC resolver that allocates while the loader relocates: nothing can start earlier than that,
// so the runtime has to count it before its own start and the program has to free it as usual.
//
// The library is always bound at once (-z now): a resolver that calls through a lazily bound slot
// crashes in any program, rewritten or not.
//
//# library: libifunc_malloc.c -Wl,-z,now
//# before-init: 1

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *take_resolver_block(void);
int call_picked(int x);

int main(void) {
    printf("picked: %d\n", call_picked(41));
    void *block = take_resolver_block();
    if (block == NULL)
        return 1;
    memset(block, 7, 10037);
    free(block);
    return 0;
}
