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
local answers, claimed, leases = {}, {}, {}
for first = 3, #ARGV, 1000 do -- a call takes a few thousand arguments
  local states = redis.call("HMGET", KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
  local n = 0
  for i = 1, #states do
    local id, state, answer = ARGV[first + i - 1], states[i], {"stale"}
    if state then
      local status, class, lease, timeout = string.match(state, "^(%a)|([^|]*)|(%d+)|(%d+)")
      if status == "c" and string.match(state, "^c|[^|]*|%d+|%d+|%d+|%d+|([^|]*)|") ~= token then
        answer = {"held"}
      else
        local hard_end = now + tonumber(timeout)
        local lease_end = math.min(now + tonumber(lease), hard_end)
        claimed[n + 1] = id
        claimed[n + 2] = string.format("c|%s|%s|%s|%.0f|%.0f|%s|%s", class, lease, timeout, now, hard_end, token, worker)
        leases[n + 1] = lease_end
        leases[n + 2] = id
        n = n + 2
        answer = {"granted", lease_end, hard_end, now}
      end
    end
    answers[#answers + 1] = answer
  end
  if n > 0 then
    redis.call("HSET", KEYS[1], unpack(claimed, 1, n))
    redis.call("ZADD", KEYS[2], unpack(leases, 1, n))
  end
end
return answers
