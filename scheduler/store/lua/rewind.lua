-- rewind: the owner of a shard that went back in time makes that known, once, before it goes on.
--
-- KEYS[1]  string   the shard's token                        keys.epoch
-- KEYS[2]  string   number of commits                        keys.commits
-- KEYS[3]  hash     what is known of rewinds                 keys.rewound
-- ARGV     token, number of commits that the caller knows of
-- Returns  {"fenced"} | {"sound"} | {"healed", now ms, missing commits, new number of commits}      O(1)
--
-- The number goes on above all that was ever acknowledged, so that nobody else takes it for another rewind.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return {"fenced"} end
local found = tonumber(redis.call("GET", KEYS[2]) or "0")
local known = math.max(tonumber(ARGV[2]), tonumber(redis.call("HGET", KEYS[3], "known") or "0"))
if known <= found then return {"sound"} end
local time = redis.call("TIME")
local now = string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000))
redis.call("HSET", KEYS[3], "at_ms", now, "missing", string.format("%.0f", known - found))
redis.call("HINCRBY", KEYS[3], "times", 1)
redis.call("HDEL", KEYS[3], "known")
redis.call("SET", KEYS[2], string.format("%.0f", known + 1))
return {"healed", now, string.format("%.0f", known - found), string.format("%.0f", known + 1)}
