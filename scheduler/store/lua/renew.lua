-- renew: a worker's heartbeat for the attempts it holds, claimed or still waiting in its memory.
--
-- KEYS[1]  hash   attempts in flight: id -> state            keys.attempts
-- KEYS[2]  zset   leases: id -> end of lease, ms             keys.leases
-- ARGV     worker, then attempt ids
-- Returns  for each id "renewed" | "gone" (ended, cancelled, or another worker's)              O(log n) each
--
-- A claimed attempt is never renewed past its hard end. One that only waits gets a lease too, so that
-- what a killed worker had taken from the broker is missed after a lease and not after the dispatch deadline.
-- It works on a full Redis too, for it only changes scores: Redis asks for room before a script's first write alone, and
-- the first here is one that never needs any. So a long wait for memory costs no attempt.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker = ARGV[1]
redis.call("ZREM", KEYS[2], "")
local answers = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local state = redis.call("HGET", KEYS[1], id)
  local status, lease, hard_end, holder
  if state then
    status, lease = string.match(state, "^(%a)|[^|]*|(%d+)|%d+")
    hard_end, holder = string.match(state, "^c|[^|]*|%d+|%d+|%d+|(%d+)|[^|]*|(.*)$")
  end
  if status == "s" then
    redis.call("ZADD", KEYS[2], "XX", now + tonumber(lease), id)
    answers[i - 1] = "renewed"
  elseif status == "c" and holder == worker then
    redis.call("ZADD", KEYS[2], "XX", math.min(now + tonumber(lease), tonumber(hard_end)), id)
    answers[i - 1] = "renewed"
  else
    answers[i - 1] = "gone"
  end
end
return answers
