//! Scripts that the server runs.

use std::sync::OnceLock;

use crate::connectors::redis::Command;

/// A script, sent by its digest.
pub struct Script {
    text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    const fn new(text: &'static str) -> Self {
        Self { text, sha: OnceLock::new() }
    }

    /// Begins the command that runs it on a key; its arguments follow.
    pub fn on(&self, key: &[u8]) -> Command {
        let sha = self.sha.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned());
        Command::new("EVALSHA").arg(sha.as_str()).arg(1).key(key)
    }

    /// The command that gives it to a node.
    pub fn load(&self) -> Command {
        Command::new("SCRIPT LOAD").arg(self.text)
    }
}

/// Writes a hash unless what is there is newer. `ARGV`: form, kind, version (empty: that of its time), since (empty: now), how long it is
/// served in microseconds (0: without end), how long it is kept in milliseconds (0: without end), then fields and values. Answers -1 for a hash
/// of somebody else; else 2 when it was written, and 1 more when nothing of the same time was there.
pub static PUT: Script = Script::new(
    "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'haul:row', 'haul:lock')
if not held[1] and not held[2] and redis.call('EXISTS', KEYS[1]) == 1 then return -1 end
local since = ARGV[4] == '' and now or tonumber(ARGV[4])
local version = ARGV[3] == '' and string.format('%016x', since) or ARGV[3]
local first = 1
if held[1] then
    local old_version, old_since = string.match(held[1], '^%x+ %a (%x+) (%x+) %x+$')
    if old_version then
        old_since = tonumber(old_since, 16)
        if old_since == since then first = 0 end
        if ARGV[2] == 'n' then
            if old_since > since then return first end
            if old_version > version then version = old_version end
        elseif old_version > version then
            return first
        end
    end
end
local till = ARGV[5] == '0' and 0 or now + ARGV[5]
local fields = {'haul:row', string.format('%s %s %s %x %x', ARGV[1], ARGV[2], version, since, till)}
for at = 7, #ARGV do fields[#fields + 1] = ARGV[at] end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(fields))
if ARGV[6] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return 2 + first
",
);

/// Takes the lock of a key that has no row in its time, or keeps it for longer. `ARGV`: form, token, lease in milliseconds. Answers the time
/// in microseconds when the lock is taken, 0 when there is a row, -1 when somebody else has the lock, -2 for a hash of somebody else.
pub static LOCK: Script = Script::new(
    "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'haul:row', 'haul:lock')
if not held[1] and not held[2] and redis.call('EXISTS', KEYS[1]) == 1 then return -2 end
if held[1] then
    local form, kind, till = string.match(held[1], '^(%x+) (%a) %x+ %x+ (%x+)$')
    if form == ARGV[1] and kind ~= 'g' and (till == '0' or tonumber(till, 16) >= now) then return 0 end
end
if held[2] then
    local owner, till = string.match(held[2], '^(%S+) (%d+)$')
    if owner and owner ~= ARGV[2] and tonumber(till) > now then return -1 end
end
local lease = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'haul:lock', string.format('%s %.0f', ARGV[2], now + lease * 1000))
local left = redis.call('PTTL', KEYS[1])
if not held[1] or (left >= 0 and left < lease) then redis.call('PEXPIRE', KEYS[1], lease) end
return now
",
);

/// Gives a lock back, unless it is somebody else's by now. `ARGV`: token.
pub static UNLOCK: Script = Script::new(
    "
local held = redis.call('HGET', KEYS[1], 'haul:lock')
if held and string.match(held, '^%S+') == ARGV[1] then return redis.call('HDEL', KEYS[1], 'haul:lock') end
return 0
",
);

/// Begins a filling in the control hash. Answers its generation and the time in microseconds.
pub static BEGIN: Script = Script::new(
    "
local time = redis.call('TIME')
local generation = redis.call('HINCRBY', KEYS[1], 'last', 1)
redis.call('HSET', KEYS[1], 'filling', generation)
return {generation, time[1] * 1000000 + time[2]}
",
);

/// Makes a filling the one that is seen, unless a newer one has begun. `ARGV`: its generation, its rows, when it began, its form.
pub static SHOW: Script = Script::new(
    "
local held = redis.call('HMGET', KEYS[1], 'current', 'filling')
if held[1] == ARGV[1] then return 1 end
if held[2] ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'filling')
redis.call('HSET', KEYS[1], 'current', ARGV[1], 'rows', ARGV[2], 'since', ARGV[3], 'form', ARGV[4])
return 1
",
);

/// Removes a hash of a cache. `ARGV`: the half of the form that stands for the cache.
pub static SWEEP: Script = Script::new(
    "
local held = redis.pcall('HGET', KEYS[1], 'haul:row')
if type(held) == 'string' and string.sub(held, 1, #ARGV[1]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0
",
);
