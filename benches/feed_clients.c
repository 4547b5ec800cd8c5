/* Clients of a feed: so many server-sent event streams on one thread, by epoll.
 *
 *     feed_clients PORT PATH CLIENTS
 *
 * Prints "ready" once every client has its answer's head. Then each line on standard input ends a measurement and begins the next: a JSON
 * object with the events that came, the seconds, and percentiles of how long they took, in milliseconds, from the microseconds of 1970 in the
 * member "at" of each row. Latency is taken of every event of each sixteenth client. "end" ends the program. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 4000000

struct client {
    int fd, ready, sampled;
    size_t kept;
    char tail[4096]; /* The beginning of an event whose end has not come yet; only of sampled clients. */
};

static double samples[SAMPLES];
static size_t sampled;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part(double share) {
    return sampled ? samples[(size_t)(share * (sampled - 1))] : 0;
}

static size_t count(const char *text, size_t length) {
    size_t found = 0;
    const char *at = text, *end = text + length;
    while ((at = memmem(at, end - at, "\"@op\"", 5))) {
        found++;
        at += 5;
    }
    return found;
}

static void sample(struct client *client, char *text, size_t length) {
    static char whole[1 << 21];
    memcpy(whole, client->tail, client->kept);
    memcpy(whole + client->kept, text, length);
    length += client->kept;
    char *at = whole, *end = whole + length, *line;
    double time = now();
    while ((line = memchr(at, '\n', end - at))) {
        char *found = memmem(at, line - at, "\"at\":", 5);
        if (found && sampled < SAMPLES) samples[sampled++] = (time - strtod(found + 5, NULL) / 1e6) * 1e3;
        at = line + 1;
    }
    client->kept = end - at < (long)sizeof client->tail ? end - at : 0;
    memcpy(client->tail, at, client->kept);
}

int main(int count_of, char **arguments) {
    if (count_of != 4) return 2;
    int port = atoi(arguments[1]), clients = atoi(arguments[3]), ready = 0;
    struct client *all = calloc(clients, sizeof *all);
    int poll = epoll_create1(0);
    char request[1024];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n", arguments[2]);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (int i = 0; i < clients; i++) {
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        all[i].sampled = i % 16 == 0;
        if (connect(all[i].fd, (void *)&to, sizeof to) || write(all[i].fd, request, length) != length) {
            perror("connect");
            return 1;
        }
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    struct epoll_event input = { .events = EPOLLIN, .data.u32 = ~0u }, found[512];
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &input);
    static char buffer[1 << 20];
    size_t events = 0;
    double began = now();
    for (;;) {
        int many = epoll_wait(poll, found, 512, -1);
        for (int i = 0; i < many; i++) {
            if (found[i].data.u32 == ~0u) {
                char line[64];
                ssize_t got = read(0, line, sizeof line);
                double seconds = now() - began;
                qsort(samples, sampled, sizeof *samples, order);
                printf("{\"events\": %zu, \"seconds\": %.3f, \"p50\": %.2f, \"p99\": %.2f, \"max\": %.2f}\n", events, seconds, part(.5), part(.99), part(1));
                fflush(stdout);
                if (got <= 0 || !strncmp(line, "end", 3)) return 0;
                events = sampled = 0;
                began = now();
                continue;
            }
            struct client *client = &all[found[i].data.u32];
            ssize_t got = recv(client->fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (got <= 0) {
                if (got < 0 && errno == EAGAIN) continue;
                fprintf(stderr, "a client was disconnected\n");
                return 1;
            }
            if (!client->ready) {
                client->ready = 1;
                if (++ready == clients) {
                    puts("ready");
                    fflush(stdout);
                }
            }
            /* An event that is cut in its middle is missed or counted here as its mark lies: one in thousands. */
            events += count(buffer, got);
            if (client->sampled) sample(client, buffer, got);
        }
    }
}
