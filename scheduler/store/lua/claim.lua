-- claim: a worker asks to begin attempts; it may begin each that is current and that nobody holds.
--
-- KEYS[1]  hash   attempts in flight: id -> state            keys.attempts
-- KEYS[2]  zset   leases: id -> end of lease, ms             keys.leases
-- ARGV     worker, token of this claim, then attempt ids
-- Returns  for each id {"granted", lease end ms, hard end ms, now ms} | {"held"} | {"stale"}      O(log n) each
--
-- A state is "s|class|lease ms|timeout ms" (sent) or, claimed,
-- "c|class|lease ms|timeout ms|claimed at|hard end|token|worker". The same token again is granted
-- again: a claim whose answer was lost is repeated without harm. Another one never is, not even when the lease has
-- run out: an attempt begins once, and what comes after a lost one is the next attempt, which the scheduler numbers.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, token = ARGV[1], ARGV[2]
local answers = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local state = redis.call("HGET", KEYS[1], id)
  if not state then
    answers[i - 2] = {"stale"}
  else
    local status, class, lease, timeout = string.match(state, "^(%a)|([^|]*)|(%d+)|(%d+)")
    local holder = string.match(state, "^c|[^|]*|%d+|%d+|%d+|%d+|([^|]*)|")
    if status == "c" and holder ~= token then
      answers[i - 2] = {"held"}
    else
      local hard_end = now + tonumber(timeout)
      local lease_end = math.min(now + tonumber(lease), hard_end)
      redis.call("HSET", KEYS[1], id,
        string.format("c|%s|%s|%s|%.0f|%.0f|%s|%s", class, lease, timeout, now, hard_end, token, worker))
      redis.call("ZADD", KEYS[2], lease_end, id)
      answers[i - 2] = {"granted", lease_end, hard_end, now}
    end
  end
end
return answers
