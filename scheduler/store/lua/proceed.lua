-- proceed: a worker goes on from an attempt that has ended well to the next step of its chain. The report and the claim
-- of that step are made together or not at all, so no step begins before the end of the one before it is kept.
--
-- KEYS[1]  hash    attempts in flight: id -> state           keys.attempts
-- KEYS[2]  zset    leases: id -> end of lease, ms            keys.leases
-- KEYS[3]  stream  the shard's inbox                         keys.inbox
-- ARGV     worker, token of the claim that has ended, token of the new one, attempt that has ended, attempt that begins,
--          "class|lease ms|timeout ms" of that, then fields of the report as an inbox entry has them
-- Returns  {"granted", lease end ms, hard end ms, now ms} | {"stale"} (and nothing was done)          O(log n)
--
-- The same call again, after a lost answer, is granted again and reports nothing twice. The claim that has ended is
-- marked (an x before its token), so that whoever finds its lease run out sees that it is not as it was. A step that is in
-- flight already came another way, for somebody else has ended the attempt before it.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, token, own, ended, id, place = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local lease, timeout = string.match(place, "^[^|]*|(%d+)|(%d+)$")
local there = redis.call("HGET", KEYS[1], id)
local hard_end
if there then
  local holder
  hard_end, holder = string.match(there, "^c|[^|]*|%d+|%d+|%d+|(%d+)|([^|]*)|")
  if holder ~= own then return {"stale"} end
  hard_end = tonumber(hard_end)
else
  local state = redis.call("HGET", KEYS[1], ended)
  if not state then return {"stale"} end
  local before, holder, behind = string.match(state, "^(c|[^|]*|%d+|%d+|%d+|%d+|)([^|]*)(|.*)$")
  if holder ~= token then return {"stale"} end
  hard_end = now + tonumber(timeout)
  redis.call("XADD", KEYS[3], "*", unpack(ARGV, 7))
  redis.call("HSET", KEYS[1], ended, before .. "x" .. holder .. behind,
    id, string.format("c|%s|%.0f|%.0f|%s|%s", place, now, hard_end, own, worker))
end
local lease_end = math.min(now + tonumber(lease), hard_end)
redis.call("ZADD", KEYS[2], lease_end, id)
return {"granted", lease_end, hard_end, now}
