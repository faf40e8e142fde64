-- release: give shards back, so that another scheduler may take them at once.
--
-- KEYS[1]  hash   owners: shard -> "epoch|lease end ms|scheduler"      keys.owners
-- KEYS[2]  zset   schedulers: scheduler -> end of membership, ms       keys.schedulers
-- ARGV     scheduler, "leave" or "stay", then shard, epoch, …
-- Returns  number of shards released                                  O(shards)
local released = 0
for i = 3, #ARGV, 2 do
  local found = redis.call("HGET", KEYS[1], ARGV[i]) or "0|0|"
  local epoch, _, owner = string.match(found, "^(%d+)|(%d+)|(.*)$")
  if epoch == ARGV[i + 1] and owner == ARGV[1] then
    redis.call("HSET", KEYS[1], ARGV[i], epoch .. "|0|")
    released = released + 1
  end
end
if ARGV[2] == "leave" then redis.call("ZREM", KEYS[2], ARGV[1]) end
return released
