-- take: become the owner of shards that are free, each under a new epoch.
--
-- KEYS[1]  hash   owners: shard -> "epoch|lease end ms|scheduler"      keys.owners
-- ARGV     scheduler, lease length ms, then shards
-- Returns  for each shard its new epoch, or 0 when somebody else holds it      O(shards)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for i = 3, #ARGV do
  local found = redis.call("HGET", KEYS[1], ARGV[i]) or "0|0|"
  local epoch, lease_end = string.match(found, "^(%d+)|(%d+)|")
  if tonumber(lease_end) > now then
    answers[i - 2] = 0
  else
    epoch = tonumber(epoch) + 1
    redis.call("HSET", KEYS[1], ARGV[i], string.format("%.0f|%.0f|%s", epoch, now + tonumber(ARGV[2]), ARGV[1]))
    answers[i - 2] = epoch
  end
end
return answers
