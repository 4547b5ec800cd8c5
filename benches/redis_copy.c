/* The limit of copying keys: SCAN, then DUMP and PEXPIRETIME, then RESTORE, 500 keys at a time, on as many connections a side as are asked for.
 * They share one scan: whoever is free takes its next page.
 *
 *     cc -O2 -pthread -o redis_copy redis_copy.c -lhiredis && ./redis_copy SOURCE_PORT TARGET_PORT [CONNECTIONS]
 */
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 500, MOST = 64 };

static int source_port, target_port;
/* The scan and what was copied, behind the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static redisContext *scan;
static char cursor[32] = "0";
static int ended;
static long keys;

static redisContext *connect_to(int port) {
    redisContext *server = redisConnect("127.0.0.1", port);
    if (server == NULL || server->err) {
        fprintf(stderr, "no server at port %d\n", port);
        exit(1);
    }
    return server;
}

static redisReply *reply_of(redisContext *server) {
    void *reply = NULL;
    if (redisGetReply(server, &reply) != REDIS_OK || reply == NULL || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "failed: %s\n", reply ? ((redisReply *)reply)->str : server->errstr);
        exit(1);
    }
    return reply;
}

/* The next page of the scan, NULL at its end. */
static redisReply *next_page(void) {
    redisReply *page = NULL;
    pthread_mutex_lock(&lock);
    if (!ended) {
        redisAppendCommand(scan, "SCAN %s COUNT %d", cursor, BATCH);
        page = reply_of(scan);
        snprintf(cursor, sizeof cursor, "%s", page->element[0]->str);
        ended = cursor[0] == '0' && cursor[1] == 0;
    }
    pthread_mutex_unlock(&lock);
    return page;
}

static void *copy(void *unused) {
    redisContext *source = connect_to(source_port), *target = connect_to(target_port);
    redisReply *page;
    while ((page = next_page()) != NULL) {
        redisReply *names = page->element[1];
        for (size_t i = 0; i < names->elements; i++) {
            redisAppendCommand(source, "DUMP %b", names->element[i]->str, names->element[i]->len);
            redisAppendCommand(source, "PEXPIRETIME %b", names->element[i]->str, names->element[i]->len);
        }
        size_t sent = 0;
        for (size_t i = 0; i < names->elements; i++) {
            redisReply *payload = reply_of(source), *expiry = reply_of(source);
            if (payload->type == REDIS_REPLY_STRING) {
                redisAppendCommand(target, "RESTORE %b %lld %b REPLACE ABSTTL", names->element[i]->str, names->element[i]->len,
                                   expiry->integer > 0 ? expiry->integer : 0LL, payload->str, payload->len);
                sent++;
            }
            freeReplyObject(payload);
            freeReplyObject(expiry);
        }
        for (size_t i = 0; i < sent; i++)
            freeReplyObject(reply_of(target));
        freeReplyObject(page);
        pthread_mutex_lock(&lock);
        keys += sent;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

int main(int count, char **words) {
    int connections = count == 4 ? atoi(words[3]) : 1;
    if (count < 3 || connections < 1 || connections > MOST)
        return 2;
    source_port = atoi(words[1]);
    target_port = atoi(words[2]);
    scan = connect_to(source_port);
    pthread_t threads[MOST];
    for (int i = 0; i < connections; i++)
        if (pthread_create(&threads[i], NULL, copy, NULL) != 0)
            return 1;
    for (int i = 0; i < connections; i++)
        pthread_join(threads[i], NULL);
    printf("%ld keys\n", keys);
    return 0;
}
