// A glib program with a pool of its own, as GMemChunk was: points are parts of blocks that come from g_malloc, and
// shapes are parts of what g_slice gets. The program says so with the functions of `allocs.h`: without the
// runtime, to nobody; with it, an address inside of a point is known to be in that point, and who made it.
// -rdynamic: the functions that make points keep their names when the program is stripped.
//
//# pkg-config: glib-2.0
//# flags: -rdynamic -fPIE -Wl,-z,dynamic-undefined-weak
//# answer: 8 bytes into 24 bytes of points, made in point_new, in a chunk of 2400 bytes
//# answer: 20 bytes into 24 bytes of points, made in point_copy, in a chunk of 2400 bytes
//# answer: 40 bytes into 64 bytes of shapes, made in shape_new
//# answer: 12 bytes into 24 bytes of points, made in point_new, in a chunk of 2400 bytes
//# answer: 104 bytes into 2400 bytes of malloc, made in block_new, in a chunk of 2400 bytes
//# answer: 98 points are alive

#include "../runtime/include/allocs.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    gdouble x, y, z;
} Point;

typedef struct {
    gchar name[32];
    Point *corners[4];
} Shape;

enum { POINTS = 100 };

// The pool: blocks of points, and those that are free.
static GSList *blocks;
static GPtrArray *unused;
static const struct allocator *points, *shapes;

__attribute__((noinline)) void block_new(void) {
    Point *block = g_new(Point, POINTS);
    blocks = g_slist_prepend(blocks, block);
    for (int i = POINTS - 1; i >= 0; i--)
        g_ptr_array_add(unused, &block[i]);
}

static Point *point_take(void) {
    if (unused->len == 0)
        block_new();
    return g_ptr_array_remove_index(unused, unused->len - 1);
}

__attribute__((noinline)) Point *point_new(gdouble x, gdouble y) {
    Point *point = point_take();
    *point = (Point){x, y, 0};
    if (alloc_announce)
        alloc_announce(points, point, sizeof *point);
    return point;
}

__attribute__((noinline)) Point *point_copy(const Point *original) {
    Point *point = point_take();
    *point = *original;
    if (alloc_announce)
        alloc_announce(points, point, sizeof *point);
    return point;
}

static void point_free(Point *point) {
    if (alloc_retract)
        alloc_retract(points, point);
    g_ptr_array_add(unused, point);
}

__attribute__((noinline)) Shape *shape_new(const gchar *name) {
    Shape *shape = g_slice_new0(Shape);
    g_strlcpy(shape->name, name, sizeof shape->name);
    if (alloc_announce)
        alloc_announce(shapes, shape, sizeof *shape);
    return shape;
}

static void shape_free(Shape *shape) {
    if (alloc_retract)
        alloc_retract(shapes, shape);
    g_slice_free(Shape, shape);
}

static void ask(const void *address) {
    struct alloc_info info;
    if (!alloc_get_info || alloc_get_info(address, &info) != ALLOC_OK)
        return;
    printf("%td bytes into %zu bytes of %s, made in %s", (const char *)address - (char *)info.base, info.size,
           info.allocator->name, info.site_place.symbol ? info.site_place.symbol : "none");
    // How large g_slice's own chunks are is a matter of glib's version.
    if (info.allocator != shapes)
        printf(", in a chunk of %zu bytes", info.chunk_size);
    putchar('\n');
}

static int count(const struct alloc_chunk *chunk, void *argument) {
    (void)chunk;
    ++*(int *)argument;
    return 0;
}

int main(void) {
    unused = g_ptr_array_new();
    if (alloc_register_allocator) {
        points = alloc_register_allocator("points");
        shapes = alloc_register_allocator("shapes");
    }

    Shape *square = shape_new("square");
    for (int i = 0; i < 4; i++)
        square->corners[i] = point_new(i & 1, i >> 1);
    Point *copy = point_copy(square->corners[3]);
    ask(&square->corners[2]->y);
    ask((char *)copy + 20);
    ask(&square->corners[1]);

    // What was given back is nobody's point until it is given out again.
    Point *second = square->corners[1];
    point_free(second);
    Point *again = point_new(7, 7);
    g_assert(again == second);
    ask((char *)again + 12);
    point_free(copy);
    ask(&copy->y);

    Point *many[POINTS - 6];
    gdouble sum = 0;
    for (int i = 0; i < POINTS - 6; i++) {
        many[i] = point_new(i, i);
        sum += many[i]->x;
    }
    if (alloc_walk) {
        int alive = 0;
        struct alloc_range range = {.allocator = points};
        alloc_walk(&range, count, &alive);
        printf("%d points are alive\n", alive);
    }
    printf("%s, a sum of %g in %u blocks\n", square->name, sum, g_slist_length(blocks));

    for (int i = 0; i < POINTS - 6; i++)
        point_free(many[i]);
    for (int i = 0; i < 4; i++)
        if (i != 1)
            point_free(square->corners[i]);
    point_free(again);
    shape_free(square);
    g_slist_free_full(blocks, g_free);
    g_ptr_array_free(unused, TRUE);
    return 0;
}
