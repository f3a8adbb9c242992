// fork while other threads allocate: in the child only the forking thread is left, whatever locks
// the others held, and the child must still be able to allocate, fork again, and exit as usual.
//
//# flags: -pthread

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int stop;

static void *churn(void *arg) {
    (void)arg;
    while (!atomic_load(&stop)) {
        void *a = malloc(100), *b = malloc(100000);
        free(a);
        free(b);
    }
    return NULL;
}

static int in_child(int depth) {
    char *blocks[200];
    for (int i = 0; i < 200; i++)
        blocks[i] = calloc(1, (size_t)(1 + i * 50));
    int sum = 0;
    for (int i = 0; i < 200; i++) {
        sum += blocks[i][0];
        free(blocks[i]);
    }
    if (depth > 0) {
        pid_t pid = fork();
        if (pid == 0)
            exit(in_child(depth - 1));
        int status;
        waitpid(pid, &status, 0);
        sum += WIFEXITED(status) ? WEXITSTATUS(status) : 100;
    }
    return sum + 1;
}

int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, churn, NULL);
    int sum = 0;
    for (int i = 0; i < 50; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(in_child(1));
        int status;
        waitpid(pid, &status, 0);
        sum += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("children: %d\n", sum);
    return 0;
}
