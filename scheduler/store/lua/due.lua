-- due: what has run out in a shard, and when the next will. Reads only: the commit that acts on it removes it.
--
-- KEYS[1]  hash   attempts in flight: id -> state            keys.attempts
-- KEYS[2]  zset   leases: id -> end of lease, ms             keys.leases
-- KEYS[3]  zset   timers: timer -> due instant, ms           keys.timers
-- ARGV     at most this many of each; by which instant, ms, -1 for now
-- Returns  {that instant, ms, {id, state, …}, {timer, …}, next lease end or -1, next timer or -1}      O(log n + what is due)
local now = tonumber(ARGV[2])
if now < 0 then
  local time = redis.call("TIME")
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local expired = {}
for _, id in ipairs(redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", now, "LIMIT", 0, ARGV[1])) do
  expired[#expired + 1] = id
  expired[#expired + 1] = redis.call("HGET", KEYS[1], id) or ""
end
local timers = redis.call("ZRANGEBYSCORE", KEYS[3], "-inf", now, "LIMIT", 0, ARGV[1])
local function first(key)
  local found = redis.call("ZRANGEBYSCORE", key, "(" .. string.format("%.0f", now), "+inf", "WITHSCORES", "LIMIT", 0, 1)
  return tonumber(found[2] or -1)
end
return {now, expired, timers, first(KEYS[2]), first(KEYS[3])}
