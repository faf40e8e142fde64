-- raise: a shard's own token has a higher number than the table of owners gave us; the table goes on from there.
--
-- KEYS[1]  hash   owners: shard -> "epoch|lease end ms|scheduler"      keys.owners
-- ARGV     scheduler, shard, the number that we were given, number of the shard's token
-- Returns  1, and the shard is free; 0 when the row is ours no more: its number is another's affair      O(1)
local found = redis.call("HGET", KEYS[1], ARGV[2]) or "0|0|"
local epoch, _, owner = string.match(found, "^(%d+)|(%d+)|(.*)$")
if epoch ~= ARGV[3] or owner ~= ARGV[1] then return 0 end
redis.call("HSET", KEYS[1], ARGV[2], ARGV[4] .. "|0|")
return 1
