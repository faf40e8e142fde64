-- keep: renew a scheduler's membership and the shards it owns, and see who else is there.
--
-- KEYS[1]  hash   owners: shard -> "epoch|lease end ms|scheduler"      keys.owners
-- KEYS[2]  zset   schedulers: scheduler -> end of membership, ms       keys.schedulers
-- ARGV     scheduler, lease length ms, then shard, epoch, …
-- Returns  {now ms, {shard lost, …}, number of live schedulers, {shard, owner line, …}}      O(shards)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_end = now + tonumber(ARGV[2])
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
redis.call("ZADD", KEYS[2], lease_end, ARGV[1])
local table_ = redis.call("HGETALL", KEYS[1])
local line = {}
for i = 1, #table_, 2 do line[table_[i]] = i + 1 end
local lost, renewed = {}, {}
for i = 3, #ARGV, 2 do
  local at = line[ARGV[i]]
  local epoch, _, owner = string.match(at and table_[at] or "0|0|", "^(%d+)|(%d+)|(.*)$")
  if epoch == ARGV[i + 1] and owner == ARGV[1] then
    table_[at] = string.format("%s|%.0f|%s", epoch, lease_end, ARGV[1])
    renewed[#renewed + 1] = ARGV[i]
    renewed[#renewed + 1] = table_[at]
  else
    lost[#lost + 1] = ARGV[i]
  end
end
if #renewed > 0 then redis.call("HSET", KEYS[1], unpack(renewed)) end
return {now, lost, redis.call("ZCARD", KEYS[2]), table_}
