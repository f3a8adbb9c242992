// The plugin of dlopen.c: allocates when it is loaded, when it is used and in a thread-local
// variable, and frees when it is unloaded.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *state;
static __thread char per_thread[4000];

__attribute__((constructor)) static void load(void) {
    state = malloc(10061);
    strcpy(state, "loaded");
}

__attribute__((destructor)) static void unload(void) {
    printf("plugin: %s, leaving\n", state);
    free(state);
}

char *plugin_answer(const char *question) {
    per_thread[0]++;
    char *answer = malloc(200);
    snprintf(answer, 200, "%s? %d", question, per_thread[0]);
    strcpy(state, "used");
    return answer;
}
