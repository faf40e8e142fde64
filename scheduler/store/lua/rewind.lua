-- rewind: the owner of a shard that went back in time makes that known, once, before it goes on.
--
-- KEYS[1]  string   the shard's token                        keys.epoch
-- KEYS[2]  string   number of commits                        keys.commits
-- KEYS[3]  hash     what is known of rewinds                 keys.rewound
-- ARGV     token, number of commits that the caller knows of
-- Returns  {"fenced"} | {"sound"} | {"healed", now ms, missing commits, new number of commits}      O(1)
--
-- The number goes on so far above all that was ever acknowledged that nobody takes it for another rewind: schedulers
-- know of different numbers of the lost commits, and the one that makes the loss known need not know of the most. So
-- the missing commits are at least so many; what an earlier jump added is none of them.
local JUMP = 1e9
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return {"fenced"} end
local found = tonumber(redis.call("GET", KEYS[2]) or "0")
local known = math.max(tonumber(ARGV[2]), tonumber(redis.call("HGET", KEYS[3], "known") or "0"))
if known <= found then return {"sound"} end
local time = redis.call("TIME")
local now = string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000))
local missing = string.format("%.0f", math.max(1, math.fmod(known - found, JUMP)))
redis.call("HSET", KEYS[3], "at_ms", now, "missing", missing)
redis.call("HINCRBY", KEYS[3], "times", 1)
redis.call("HDEL", KEYS[3], "known")
redis.call("SET", KEYS[2], string.format("%.0f", known + JUMP))
return {"healed", now, missing, string.format("%.0f", known + JUMP)}
