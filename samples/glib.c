// A glib program, the case that this project exists for: libglib's own constructor allocates, so a
// runtime that starts in `main`, or even in a constructor of the program, has missed allocations
// that the program frees later. The program then works as glib programs do: a hash table, a sorted
// array, strings joined and split, a main loop with a timeout.
//
//# pkg-config: glib-2.0

#include <glib.h>
#include <stdio.h>

static gint by_name(gconstpointer a, gconstpointer b) {
    return g_strcmp0(*(const char *const *)a, *(const char *const *)b);
}

static gboolean tick(gpointer data) {
    printf("tick\n");
    g_main_loop_quit(data);
    return G_SOURCE_REMOVE;
}

int main(void) {
    GHashTable *count = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gchar **words = g_strsplit("one fish two fish red fish blue fish", " ", 0);
    for (gchar **word = words; *word != NULL; word++) {
        gint old = GPOINTER_TO_INT(g_hash_table_lookup(count, *word));
        g_hash_table_insert(count, g_strdup(*word), GINT_TO_POINTER(old + 1));
    }

    GPtrArray *names = g_ptr_array_new();
    GHashTableIter iter;
    gpointer name;
    g_hash_table_iter_init(&iter, count);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_ptr_array_add(names, name);
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len; i++) {
        gpointer key = g_ptr_array_index(names, i);
        printf("%s %d\n", (char *)key, GPOINTER_TO_INT(g_hash_table_lookup(count, key)));
    }

    gchar *joined = g_strjoinv("-", words);
    printf("%s\n", joined);

    GMainLoop *loop = g_main_loop_new(NULL, FALSE);
    g_timeout_add(1, tick, loop);
    g_main_loop_run(loop);

    g_main_loop_unref(loop);
    g_free(joined);
    g_ptr_array_free(names, TRUE);
    g_strfreev(words);
    g_hash_table_destroy(count);
    return 0;
}
