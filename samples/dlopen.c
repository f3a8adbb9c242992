// A plugin that comes and goes with dlopen and dlclose, several times: memory that the plugin
// allocated is freed by the program. Failing look-ups are made too, because the loader allocates
// their messages.
//
//# plugin: libdlopen_plugin.c
//# flags: -ldl

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    for (int i = 0; i < 3; i++) {
        void *plugin = dlopen("libdlopen_plugin.so", RTLD_NOW | RTLD_LOCAL);
        if (plugin == NULL) {
            printf("%s\n", dlerror());
            return 1;
        }
        char *(*ask)(const char *) = (char *(*)(const char *))dlsym(plugin, "plugin_answer");
        char *answer = ask("how often");
        dlsym(plugin, "not_there");
        const char *message = dlerror();
        dlclose(plugin);
        printf("%s; %s\n", answer, message != NULL ? "one look-up failed" : "no message");
        free(answer);
    }
    printf("%s\n", dlopen("not-there.so", RTLD_NOW) == NULL ? "not there" : "there?");
    return strstr(dlerror(), "not-there.so") != NULL ? 0 : 1;
}
