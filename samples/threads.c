// Threads that allocate for each other: every block is freed by another thread than the one that
// asked for it, while threads come and go.
//
//# flags: -pthread

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 20, BLOCKS = 500 };

static char *box[THREADS][BLOCKS];
static pthread_barrier_t barrier;

static void *work(void *arg) {
    size_t me = (size_t)arg;
    unsigned long sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = 1 + (me * 7919 + (size_t)(round * BLOCKS + i) * 31) % 3000;
            box[me][i] = i % 3 == 0 ? calloc(size, 1) : malloc(size);
            box[me][i][0] = (char)(i % 100);
            box[me][i][size - 1] = (char)(i % 100);
        }
        pthread_barrier_wait(&barrier);
        size_t other = (me + 1) % THREADS;
        for (int i = 0; i < BLOCKS; i++) {
            sum += (unsigned long)box[other][i][0];
            if (i % 5 == 0)
                box[other][i] = realloc(box[other][i], 5000);
            free(box[other][i]);
        }
        pthread_barrier_wait(&barrier);
    }
    return (void *)sum;
}

int main(void) {
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int generation = 0; generation < 3; generation++) {
        pthread_t threads[THREADS];
        unsigned long sum = 0;
        for (size_t i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, work, (void *)i);
        for (size_t i = 0; i < THREADS; i++) {
            void *result;
            pthread_join(threads[i], &result);
            sum += (unsigned long)result;
        }
        printf("generation %d: %lu\n", generation, sum);
    }
    return 0;
}
