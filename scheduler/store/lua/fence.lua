-- fence: from now on the shard obeys a new epoch; commits of older ones are refused.
--
-- KEYS[1]  string   the shard's epoch                        keys.epoch
-- ARGV     epoch
-- Returns  "fenced" | "newer" (somebody has taken the shard since)      O(1)
local found = tonumber(redis.call("GET", KEYS[1]) or "0")
if found > tonumber(ARGV[1]) then return "newer" end
redis.call("SET", KEYS[1], ARGV[1])
return "fenced"
