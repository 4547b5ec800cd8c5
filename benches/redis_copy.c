/* The limit of copying keys on one connection a side: SCAN, then DUMP and PEXPIRETIME, then RESTORE, 500 keys at a time.
 *
 *     cc -O2 -o redis_copy redis_copy.c -lhiredis && ./redis_copy SOURCE_PORT TARGET_PORT
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 500 };

static redisReply *reply_of(redisContext *server) {
    void *reply = NULL;
    if (redisGetReply(server, &reply) != REDIS_OK || reply == NULL || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "failed: %s\n", reply ? ((redisReply *)reply)->str : server->errstr);
        exit(1);
    }
    return reply;
}

int main(int count, char **ports) {
    if (count != 3)
        return 2;
    redisContext *source = redisConnect("127.0.0.1", atoi(ports[1])), *target = redisConnect("127.0.0.1", atoi(ports[2]));
    char cursor[32] = "0";
    long keys = 0;
    do {
        redisAppendCommand(source, "SCAN %s COUNT %d", cursor, BATCH);
        redisReply *page = reply_of(source), *names = page->element[1];
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
        keys += sent;
        snprintf(cursor, sizeof cursor, "%s", page->element[0]->str);
        freeReplyObject(page);
    } while (cursor[0] != '0' || cursor[1] != 0);
    printf("%ld keys\n", keys);
    return 0;
}
