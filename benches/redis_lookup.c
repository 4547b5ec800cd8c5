/* The limit of looking keys up on one connection: 1,000 keys in one MGET, or 1,000 HMGET of the same hashes in one pipeline.
 *
 *     cc -O2 -o redis_lookup redis_lookup.c -lhiredis && ./redis_lookup PORT mget|hmget LOOKUPS KEYS
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1000 };

static redisReply *reply_of(redisContext *server) {
    void *reply = NULL;
    if (redisGetReply(server, &reply) != REDIS_OK || reply == NULL || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "failed: %s\n", reply ? ((redisReply *)reply)->str : server->errstr);
        exit(1);
    }
    return reply;
}

int main(int count, char **words) {
    if (count != 5)
        return 2;
    redisContext *server = redisConnect("127.0.0.1", atoi(words[1]));
    int hashes = strcmp(words[2], "hmget") == 0;
    long lookups = atol(words[3]), keys = atol(words[4]), found = 0;
    static char names[BATCH][32];
    static const char *arguments[BATCH + 1];
    static size_t lengths[BATCH + 1];
    for (long n = 0; n < lookups; n += BATCH) {
        arguments[0] = "MGET";
        lengths[0] = 4;
        for (long i = 0; i < BATCH; i++) {
            long id = (n + i) * 7919 % keys;
            if (hashes) {
                redisAppendCommand(server, "HMGET known:%ld@1 haul:row name", id);
            } else {
                lengths[i + 1] = snprintf(names[i], sizeof names[i], "raw:%ld", id);
                arguments[i + 1] = names[i];
            }
        }
        if (!hashes)
            redisAppendCommandArgv(server, BATCH + 1, arguments, lengths);
        for (int i = 0; i < (hashes ? BATCH : 1); i++) {
            redisReply *reply = reply_of(server);
            if (hashes)
                found += reply->element[1]->type == REDIS_REPLY_STRING;
            else
                for (size_t at = 0; at < reply->elements; at++)
                    found += reply->element[at]->type == REDIS_REPLY_STRING;
            freeReplyObject(reply);
        }
    }
    printf("%ld found\n", found);
    return found == lookups ? 0 : 1;
}
