//! What is done to a followed list in one step.

/// `KEYS`: the list, the items moved aside, the count of those before them. `ARGV`: how many more to move. Gives the count, and the items that
/// were moved aside before or now.
pub(super) const TAKE: &str = "
    local before = redis.call('LLEN', KEYS[2])
    local new = redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
    if #new > 0 then
        redis.call('RPUSH', KEYS[2], unpack(new))
        redis.call('LTRIM', KEYS[1], #new, -1)
    end
    return {tonumber(redis.call('GET', KEYS[3]) or '0') + before, new}";

/// As [`TAKE`], for the items that an earlier process has moved aside.
pub(super) const LEFT: &str = "return {tonumber(redis.call('GET', KEYS[3]) or '0'), redis.call('LRANGE', KEYS[2], 0, -1)}";

/// `KEYS`: the items moved aside, the count of those before them. `ARGV`: up to which number everything is committed.
pub(super) const DONE: &str = "
    local count = tonumber(redis.call('GET', KEYS[2]) or '0')
    local more = tonumber(ARGV[1]) - count
    if more <= 0 then return 0 end
    redis.call('LTRIM', KEYS[1], more, -1)
    redis.call('SET', KEYS[2], ARGV[1])
    return more";

/// `KEYS`: the list, the items moved aside, the count. Puts back what is not committed, and forgets the count.
pub(super) const GIVE_BACK: &str = "
    local left = redis.call('LLEN', KEYS[2])
    while true do
        local item = redis.call('RPOP', KEYS[2])
        if not item then break end
        redis.call('LPUSH', KEYS[1], item)
    end
    redis.call('DEL', KEYS[3])
    return left";
