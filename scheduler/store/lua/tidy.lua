-- tidy: forget what has been silent for long: workers that vanished, executors that nobody publishes any more.
--
-- KEYS[1]  hash    workers: name -> description, JSON with seen_at_ms     keys.workers
-- KEYS[2]  hash    executors: name -> contract                            keys.executors
-- KEYS[3]  zset    executors: name -> last published, ms                  keys.executors_seen
-- KEYS[4]  string  counts publications                                    keys.executors_version
-- ARGV     workers silent for so many ms, executors unpublished for so many ms
-- Returns  {workers forgotten, executors forgotten}                       O(workers + executors)
--
-- A worker that lives announces itself with its next heartbeat. An executor without an instant was published by an
-- older version; it counts as published now.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local workers, executors = 0, 0
local found = redis.call("HGETALL", KEYS[1])
for i = 1, #found, 2 do
  local seen = string.match(found[i + 1], '"seen_at_ms": ?(%d+)')
  if not seen or tonumber(seen) < now - tonumber(ARGV[1]) then
    workers = workers + redis.call("HDEL", KEYS[1], found[i])
  end
end
for _, name in ipairs(redis.call("HKEYS", KEYS[2])) do
  local seen = redis.call("ZSCORE", KEYS[3], name)
  if not seen then
    redis.call("ZADD", KEYS[3], now, name)
  elseif tonumber(seen) < now - tonumber(ARGV[2]) then
    executors = executors + redis.call("HDEL", KEYS[2], name)
    redis.call("ZREM", KEYS[3], name)
  end
end
if executors > 0 then redis.call("INCR", KEYS[4]) end
return {workers, executors}
