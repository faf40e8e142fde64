-- fence: from now on the shard obeys a new token; commits under any other are refused.
--
-- KEYS[1]  string   the shard's token, "number.nonce"        keys.epoch
-- ARGV     token
-- Returns  "fenced" | "newer" (somebody has taken the shard since)      O(1)
--
-- The nonce is digits, so that a scheduler of the version before, whose token is the number alone, reads a
-- number here, and takes over and is taken over by comparing it.
local found = redis.call("GET", KEYS[1])
local number = tonumber(string.match(found or "0", "^%d+"))
local mine = tonumber(string.match(ARGV[1], "^%d+"))
if number > mine or (number == mine and found ~= ARGV[1]) then return "newer" end
redis.call("SET", KEYS[1], ARGV[1])
return "fenced"
